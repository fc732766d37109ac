// Node's etcd3, over gRPC: every kind of call it has, against KEELSON_ENDPOINT (host:port).
//
// KEELSON_CA, KEELSON_CERT and KEELSON_KEY are files for TLS; KEELSON_USER and KEELSON_PASSWORD log in.

import assert from "node:assert/strict";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

// Modules are looked for where NODE_PATH says, which only `require` does.
const { Etcd3 } = createRequire(import.meta.url)("etcd3");

const env = process.env;
const endpoint = env.KEELSON_ENDPOINT ?? "127.0.0.1:2379";
const client = new Etcd3({
  hosts: `${env.KEELSON_CA ? "https" : "http"}://${endpoint}`,
  ...(env.KEELSON_CA && {
    credentials: {
      rootCertificate: readFileSync(env.KEELSON_CA),
      privateKey: readFileSync(env.KEELSON_KEY),
      certChain: readFileSync(env.KEELSON_CERT),
    },
  }),
  ...(env.KEELSON_USER && { auth: { username: env.KEELSON_USER, password: env.KEELSON_PASSWORD } }),
});

const checks = {
  async keys() {
    await client.put("node/a").value("1");
    await client.put("node/b").value("2");
    assert.equal(await client.get("node/a").string(), "1");
    assert.equal(await client.get("node/none").string(), null);
    assert.deepEqual(await client.getAll().prefix("node/").strings(), { "node/a": "1", "node/b": "2" });
    assert.deepEqual(await client.getAll().prefix("node/").sort("Key", "Descend").limit(1).keys(), ["node/b"]);
    assert.equal(await client.getAll().prefix("node/").count(), 2);
    assert.equal((await client.delete().key("node/b").getPrevious())[0].value.toString(), "2");
    assert.equal(await client.namespace("node/").get("a").string(), "1");
  },
  async transactions() {
    const done = await client
      .if("node/a", "Value", "==", "1")
      .and("node/none", "Create", "==", 0)
      .then(client.put("node/t").value("1"), client.get("node/t"))
      .else(client.delete().key("node/t"))
      .commit();
    assert.equal(done.succeeded, true);
    assert.equal(done.responses[1].response_range.kvs[0].value.toString(), "1");
    await client.stm().transact(async (tx) => {
      await tx.put("node/t").value(`${await tx.get("node/t").string()}1`);
    });
    assert.equal(await client.get("node/t").string(), "11");
  },
  async leases() {
    const lease = client.lease(30);
    await lease.put("node/leased").value("1");
    await lease.keepaliveOnce();
    const id = await lease.grant();
    const told = await client.leaseClient.leaseTimeToLive({ ID: id, keys: true });
    assert.equal(told.grantedTTL, "30");
    assert.equal(told.keys[0].toString(), "node/leased");
    assert.ok((await client.leaseClient.leaseLeases({})).leases.length >= 1);
    await lease.revoke();
    assert.equal(await client.get("node/leased").string(), null);
  },
  async watches() {
    const watcher = await client.watch().prefix("node/w").withPreviousKV().create();
    const put = once(watcher, "put");
    await client.put("node/w1").value("1");
    assert.equal((await put)[0].value.toString(), "1");
    const gone = once(watcher, "delete");
    await client.delete().key("node/w1");
    assert.equal((await gone)[1].value.toString(), "1");
    await watcher.cancel();
  },
  async locks() {
    await client.lock("node-lock").do(async () => {
      await assert.rejects(client.lock("node-lock").acquire());
    });
  },
  async elections() {
    const election = client.election("node-election", 10);
    const campaign = election.campaign("one");
    await once(campaign, "elected");
    assert.equal(await election.leader(), "one");
    await campaign.proclaim("two");
    const observer = await election.observe();
    assert.equal(observer.leader(), "two");
    await observer.cancel();
    await campaign.resign();
    assert.equal(await election.leader(), undefined);
  },
  async cluster() {
    const { members } = await client.cluster.memberList({});
    assert.ok(members[0].name && members[0].peerURLs.length > 0);
    const status = await client.maintenance.status({});
    assert.match(status.version, /^3\./);
    assert.equal((await client.maintenance.alarm({ action: "Get" })).alarms.length, 0);
    await client.maintenance.defragment({});
  },
  async users() {
    const role = client.role("node-role");
    await role.create();
    await role.grant({ permission: "Readwrite", range: client.range({ prefix: "node/" }) });
    assert.deepEqual((await role.permissions()).map((one) => one.permission), ["Readwrite"]);
    const user = client.user("node-user");
    await user.create("password");
    await user.addRole(role);
    assert.deepEqual((await user.roles()).map((one) => one.name), ["node-role"]);
    assert.ok((await client.getUsers()).some((one) => one.name === "node-user"));
    await user.removeRole(role);
    await user.delete();
    await role.delete();
    assert.ok(!(await client.getRoles()).some((one) => one.name === "node-role"));
  },
};

await client.delete().prefix("node/");
for (const [name, check] of Object.entries(checks)) {
  await check();
  console.log(name, "ok");
}
client.close();
