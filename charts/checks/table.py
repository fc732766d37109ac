"""The table of values in the chart's README, out of values.yaml: `table.py VALUES README` prints the README with it.

A comment above a key describes it. The table has the values that no further key is documented below, in the order of the file.
"""

import json
import re
import sys

import yaml

START, END = "<!-- values: written by `make generate` -->\n", "<!-- end of values -->\n"


def described(text):
    """Yields (path, comment) of every key of a block style mapping that has a comment above it."""
    stack, comment = [], []
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.startswith("#"):
            comment.append(stripped.lstrip("# "))
            continue
        key = re.match(r"( *)([A-Za-z_]+):", line)
        if key:
            indent = len(key[1])
            while stack and stack[-1][0] >= indent:
                stack.pop()
            stack.append((indent, key[2]))
            if comment:
                yield tuple(name for _, name in stack), " ".join(comment)
        comment = []


def leaves(value, path=()):
    """The paths of all values that are not mappings with something in them."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from leaves(inner, (*path, key))
    else:
        yield path


def rows(text):
    values = yaml.safe_load(text)
    comments = dict(described(text))
    for path in leaves(values):
        if not any(path[: length + 1] in comments for length in range(len(path))):
            sys.exit(f"values.yaml: no comment describes {'.'.join(path)}")
    for path, comment in comments.items():
        if any(other[: len(path)] == path for other in comments if other != path):
            sys.exit(f"values.yaml: {'.'.join(path)} has a comment, and keys below it have, too")
        value = values
        for key in path:
            value = value[key]
        yield f"| `{'.'.join(path)}` | {comment} | `{json.dumps(value)}` |"


def main():
    values, readme = (open(path, encoding="utf-8").read() for path in sys.argv[1:3])
    table = "\n".join(["| Value | What it is | Default |", "|---|---|---|", *rows(values)])
    before, rest = readme.split(START)
    after = rest.split(END)[1]
    sys.stdout.write(f"{before}{START}{table}\n{END}{after}")


main()
