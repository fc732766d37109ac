"""Python's etcd3gw, over the JSON gateway: every call it has, against KEELSON_ENDPOINT (host:port).

KEELSON_CA, KEELSON_CERT and KEELSON_KEY are files for TLS; KEELSON_USER and KEELSON_PASSWORD log in.
"""

import os
import threading

import requests
from etcd3gw.client import Etcd3Client
from etcd3gw.utils import _encode

host, port = os.environ.get("KEELSON_ENDPOINT", "127.0.0.1:2379").rsplit(":", 1)
ca = os.environ.get("KEELSON_CA")
session = requests.Session()
if ca:
    # Or REQUESTS_CA_BUNDLE would win.
    session.trust_env = False
    session.verify = ca
    session.cert = (os.environ["KEELSON_CERT"], os.environ["KEELSON_KEY"])
client = Etcd3Client(host=host, port=int(port), protocol="https" if ca else "http", session=session, timeout=10)
if os.environ.get("KEELSON_USER"):
    login = {"name": os.environ["KEELSON_USER"], "password": os.environ["KEELSON_PASSWORD"]}
    session.headers["Authorization"] = client.post(client.get_url("/auth/authenticate"), json=login)["token"]


def keys():
    assert client.put("gw/a", "1") and client.put("gw/b", "2")
    assert client.get("gw/a") == [b"1"]
    assert client.get("gw/none") == []
    found = client.get("gw/a", metadata=True)
    assert found[0][1]["version"] == "1", found
    assert [value for value, _ in client.get_prefix("gw/", sort_order="descend", sort_target="key")] == [b"2", b"1"]
    assert len(client.get_all()) >= 2
    assert client.create("gw/c", "x") and not client.create("gw/c", "x")
    assert client.replace("gw/c", "x", "y") and not client.replace("gw/c", "x", "y")
    assert client.delete("gw/c") and not client.delete("gw/c")
    assert client.delete_prefix("gw/b")


def transactions():
    key, value = _encode("gw/t"), _encode("1")
    answer = client.transaction(
        {
            "compare": [{"key": key, "result": "EQUAL", "target": "CREATE", "create_revision": 0}],
            "success": [{"request_put": {"key": key, "value": value}}, {"request_range": {"key": key}}],
            "failure": [],
        }
    )
    assert answer["succeeded"] and answer["responses"][1]["response_range"]["kvs"][0]["value"] == value, answer


def leases():
    lease = client.lease(ttl=60)
    client.put("gw/leased", "1", lease=lease)
    assert 0 < lease.ttl() <= 60 and lease.refresh() == 60
    assert lease.keys() == [b"gw/leased"]
    assert lease.revoke() and client.get("gw/leased") == []


def watches():
    events, cancel = client.watch_prefix("gw/w")
    client.put("gw/w1", "1")
    client.delete("gw/w1")
    first, second = next(events), next(events)
    assert first["kv"]["value"] == b"1" and second["type"] == "DELETE", (first, second)
    cancel()
    timer = threading.Timer(0.3, client.put, ("gw/once", "1"))
    timer.start()
    assert client.watch_once("gw/once", timeout=10)["kv"]["value"] == b"1"


def locks():
    with client.lock("gw-lock", ttl=20) as lock:
        assert lock.is_acquired() and lock.refresh() == 20
        assert not client.lock("gw-lock", ttl=20).acquire()
    assert not lock.is_acquired()


def cluster():
    assert client.status()["version"].startswith("3.")
    assert client.members()[0]["name"]


client.delete_prefix("gw/")
for check in (keys, transactions, leases, watches, locks, cluster):
    check()
    print(check.__name__, "ok", flush=True)
