"""Compares the snippets of documentation with the files that tests run or validate: `snippets.py PAGE...`.

A fenced block below a line `<!-- PATH -->` is the file at PATH, without the comment that the file begins with. In a page that is given,
every fenced block has such a line.
"""

import re
import sys

BLOCK = re.compile(r"(?:^<!-- (\S+) -->\n)?^```\w*\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def without_heading(text):
    lines = text.splitlines(keepends=True)
    while lines and lines[0].startswith(("#", "--")):
        lines.pop(0)
    return "".join(lines)


def main():
    count = 0
    for page in sys.argv[1:]:
        with open(page, encoding="utf-8") as file:
            text = file.read()
        for path, block in BLOCK.findall(text):
            if not path:
                sys.exit(f"{page}: no file is named above this snippet:\n{block}")
            with open(path, encoding="utf-8") as file:
                if without_heading(file.read()) != block:
                    sys.exit(f"{page}: the snippet is not what {path} has")
            count += 1
    print(f"{count} snippets are what the tests run")


main()
