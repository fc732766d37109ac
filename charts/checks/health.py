"""Runs Argo CD's health check of EtcdClusters as Argo CD would, on statuses as the operator writes them: `health.py SCRIPT`."""

import sys

from lupa import LuaRuntime

CONDITIONS = ("Available", "Progressing", "Degraded", "Ready", "Reconciling", "Stalled")

# What is true of a cluster, and what Argo CD is to show.
CASES = [
    ("all members serve", {"true": "Available Ready"}, "Healthy"),
    ("a member is being added", {"true": "Available Progressing Reconciling"}, "Progressing"),
    ("the first member starts", {"true": "Progressing Reconciling"}, "Progressing"),
    ("one member is down", {"true": "Available Degraded"}, "Degraded"),
    ("quorum is lost", {"true": "Degraded"}, "Degraded"),
    ("a person has to act", {"true": "Available Degraded Stalled"}, "Degraded"),
    ("a pass failed", {"true": "Available Degraded Reconciling"}, "Progressing"),
    ("the spec was edited since", {"true": "Available Ready", "generation": 2}, "Progressing"),
    ("just made", {"status": None}, "Progressing"),
    ("parked", {"true": "Ready", "phase": "Parked"}, "Suspended"),
    ("paused", {"true": "Available", "paused": True}, "Suspended"),
]


def cluster(true="", generation=1, paused=False, phase="Running", **rest):
    conditions = [{"type": name, "status": "True" if name in true.split() else "False"} for name in CONDITIONS]
    status = {"observedGeneration": 1, "phase": phase, "reason": "because", "conditions": conditions}
    return {"metadata": {"generation": generation}, "spec": {"size": 3, "paused": paused}, "status": rest.get("status", status)}


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        script = file.read()
    for what, facts, expected in CASES:
        lua = LuaRuntime()
        lua.globals().obj = lua.table_from(cluster(**facts), recursive=True)
        shown = lua.execute(script)
        if shown.status != expected or not shown.message:
            sys.exit(f"{sys.argv[1]}: {what}: {shown.status} ({shown.message}), not {expected}")
    print(f"Argo CD shows each of {len(CASES)} clusters as it is")


main()
