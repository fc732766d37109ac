"""Python's etcd3, over gRPC: every call it has, against KEELSON_ENDPOINT (host:port).

KEELSON_CA, KEELSON_CERT and KEELSON_KEY are files for TLS; KEELSON_USER and KEELSON_PASSWORD log in, with TLS only:
today's grpcio gives this client's tokens to no plaintext connection.
"""

import io
import os
import queue

import etcd3

host, port = os.environ.get("KEELSON_ENDPOINT", "127.0.0.1:2379").rsplit(":", 1)
client = etcd3.client(
    host=host,
    port=int(port),
    ca_cert=os.environ.get("KEELSON_CA"),
    cert_cert=os.environ.get("KEELSON_CERT"),
    cert_key=os.environ.get("KEELSON_KEY"),
    user=os.environ.get("KEELSON_USER"),
    password=os.environ.get("KEELSON_PASSWORD"),
    timeout=10,
)


def keys():
    client.put("py/a", "1")
    assert client.put("py/a", "2", prev_kv=True).prev_kv.value == b"1"
    client.put("py/b", "3")
    value, meta = client.get("py/a")
    assert (value, meta.version) == (b"2", 2)
    assert client.get("py/none") == (None, None)
    assert client.get("py/a", serializable=True)[0] == b"2"
    assert [value for value, _ in client.get_prefix("py/")] == [b"2", b"3"]
    found = client.get_range("py/a", "py/c", sort_order="descend", sort_target="key")
    assert [meta.key for _, meta in found] == [b"py/b", b"py/a"]
    assert len(list(client.get_all())) >= 2
    assert not client.put_if_not_exists("py/a", "x")
    assert client.put_if_not_exists("py/c", "x")
    assert client.replace("py/c", "x", "y") and not client.replace("py/c", "x", "y")
    assert client.delete("py/c") and not client.delete("py/c")


def transactions():
    t = client.transactions
    compare = [t.value("py/a") == "2", t.version("py/a") > 0, t.create("py/none") == 0, t.mod("py/a") > 1]
    done, answers = client.transaction(compare, [t.put("py/t", "1"), t.get("py/t")], [t.delete("py/t")])
    assert done and answers[1][0][0] == b"1"
    nested = t.txn([t.value("py/t") == "1"], [t.delete("py/t")], [])
    done, _ = client.transaction([t.value("py/a") == "no"], [], [nested])
    assert not done and client.get("py/t")[0] is None


def leases():
    lease = client.lease(60)
    client.put("py/leased", "1", lease=lease)
    assert 0 < lease.remaining_ttl <= 60 and lease.granted_ttl == 60
    assert lease.keys == [b"py/leased"]
    assert lease.refresh()[0].TTL == 60
    assert client.get_lease_info(lease.id).grantedTTL == 60
    lease.revoke()
    assert client.get("py/leased")[0] is None


def watches():
    events, cancel = client.watch_prefix("py/w")
    client.put("py/w1", "1")
    client.delete("py/w1")
    first, second = next(events), next(events)
    assert isinstance(first, etcd3.events.PutEvent) and first.value == b"1"
    assert isinstance(second, etcd3.events.DeleteEvent) and second.key == b"py/w1"
    cancel()
    told = queue.Queue()
    revision = client.get("py/a")[1].mod_revision
    watch = client.add_watch_callback("py/a", told.put, start_revision=revision)
    assert told.get(timeout=10).events[0].value == b"2"
    client.cancel_watch(watch)


def locks():
    with client.lock("py-lock", ttl=20) as lock:
        assert lock.is_acquired()
        assert lock.refresh()[0].TTL == 20
        assert not client.lock("py-lock", ttl=20).acquire(timeout=0.2)
    assert not lock.is_acquired()


def cluster():
    members = list(client.members)
    assert members[0].name and members[0].peer_urls and members[0].client_urls
    added = client.add_member(["http://127.0.0.1:9"]) if len(members) > 1 else None
    if added:
        added.update(["http://127.0.0.1:10"])
        added.remove()


def maintenance():
    status = client.status()
    assert status.version.startswith("3.") and status.leader.id == status.leader.id and status.db_size > 0
    assert list(client.list_alarms()) == []
    client.create_alarm()
    assert [alarm.alarm_type for alarm in client.list_alarms()] == [1]
    client.disarm_alarm()
    assert list(client.list_alarms()) == []
    if "KEELSON_USER" not in os.environ:
        # This client sends no token with these.
        client.hash()
        client.defragment()
        snapshot = io.BytesIO()
        client.snapshot(snapshot)
        assert len(snapshot.getvalue()) > 0
    client.compact(client.get("py/b")[1].mod_revision, physical=True)
    try:
        client.compact(1)
    except Exception as error:
        assert "required revision has been compacted" in str(error), error
    else:
        raise AssertionError("compacting below the last compaction must be refused")


client.delete_prefix("py/")
for check in (keys, transactions, leases, watches, locks, cluster, maintenance):
    check()
    print(check.__name__, "ok", flush=True)
client.close()
