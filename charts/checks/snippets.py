"""Compares the snippets of documentation with the files that tests run or validate: `snippets.py PAGE... -- PAGE...`.

A fenced block below a line `<!-- PATH -->` is the file at PATH, without the comment that the file begins with. Below
`<!-- part of PATH -->` it is YAML, and what it says is said by a document of that file, too. In a page that is given, every fenced block
has such a line; those of `sh` need none in pages behind `--`, as tests/e2e runs them out of the page.
"""

import re
import sys

import yaml

BLOCK = re.compile(r"(?:^<!-- (part of )?(\S+) -->\n)?^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def without_heading(text):
    lines = text.splitlines(keepends=True)
    while lines and lines[0].startswith(("#", "--")):
        lines.pop(0)
    return "".join(lines)


def says(whole, part):
    """Whether all keys of the part are in the whole, with the same values."""
    if isinstance(part, dict) and isinstance(whole, dict):
        return all(key in whole and says(whole[key], value) for key, value in part.items())
    return whole == part


def agrees(text, block, partly):
    if partly:
        part = yaml.safe_load(block)
        return bool(part) and any(says(document, part) for document in yaml.safe_load_all(text))
    return without_heading(text) == block


def main():
    pages, count = sys.argv[1:], 0
    split = pages.index("--")
    for page in pages[:split] + pages[split + 1 :]:
        with open(page, encoding="utf-8") as file:
            text = file.read()
        for partly, path, language, block in BLOCK.findall(text):
            if not path and language == "sh" and page in pages[split + 1 :]:
                continue
            if not path:
                sys.exit(f"{page}: no file is named above this snippet:\n{block}")
            with open(path, encoding="utf-8") as file:
                if not agrees(file.read(), block, partly):
                    sys.exit(f"{page}: the snippet is not what {path} has")
            count += 1
    print(f"{count} snippets are what the tests run")


main()
