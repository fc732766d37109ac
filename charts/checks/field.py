"""Prints a field of the one object of a kind: `field.py KIND KEY/KEY... <MANIFESTS`. A text is printed as it is, anything else as YAML."""

import sys

import yaml


def main():
    kind, path = sys.argv[1:]
    (value,) = (document for document in yaml.safe_load_all(sys.stdin) if document and document["kind"] == kind)
    for key in path.split("/"):
        value = value[key]
    sys.stdout.write(value if isinstance(value, str) else yaml.safe_dump(value))


main()
