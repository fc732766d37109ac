"""Fails when the operator has a right that no scenario used: `rights.py LOG <ROLES`.

LOG is that of a keelson-local with --authorize, which tells each right when it is used first. ROLES is a list of ClusterRoles and Roles as
JSON, of which those of the operator count.
"""

import json
import re
import sys

OWNER = "an admission plugin that keelson-local does not have asks for it where children block their owner's deletion"
# Rights that no scenario can use, and why they are there.
EXCEPTIONS = {
    "update keelson.dev/etcdclusters/finalizers": OWNER,
    "update keelson.dev/etcdbackups/finalizers": OWNER,
}
USED = re.compile(r"\bused: \S+/keelson-operator (\S+ \S+)$")


def granted(roles):
    for role in roles:
        if role["metadata"]["name"].startswith("keelson-operator"):
            for rule in role["rules"]:
                for group in rule["apiGroups"]:
                    for resource in rule["resources"]:
                        for verb in rule["verbs"]:
                            yield f"{verb} {group}/{resource}"


def main():
    with open(sys.argv[1], encoding="utf-8") as log:
        used = {match[1] for line in log if (match := USED.search(line.rstrip()))}
    rights = set(granted(json.load(sys.stdin)["items"]))
    problems = [f"nobody used this right of the operator: {right}" for right in sorted(rights - used - EXCEPTIONS.keys())]
    problems += [f"this exception is none any more: {right}" for right in sorted(EXCEPTIONS.keys() & used | EXCEPTIONS.keys() - rights)]
    if not rights or not used:
        problems.append("the operator has no roles, or the log tells of no use")
    if problems:
        sys.exit("\n".join(problems))
    print(f"the operator used {len(rights & used)} of its {len(rights)} rights; the others are exceptions with a reason")


main()
