"""Turns what `helm template` renders, on the standard input, into manifests for a kustomize base, on the standard output.

Definitions are left out, since the base takes them from crds/, and so are labels that say that helm looks after the objects.
"""

import re
import sys

print("# Rendered from charts/keelson by `make generate`; do not edit.")
for document in re.split(r"^---\n", sys.stdin.read(), flags=re.MULTILINE):
    if not document.strip() or "\nkind: CustomResourceDefinition\n" in document:
        continue
    document = re.sub(r"^# Source: .*\n", "", document, flags=re.MULTILINE)
    document = re.sub(r"^ *(helm\.sh/chart|app\.kubernetes\.io/managed-by): (keelson-.*|Helm)\n", "", document, flags=re.MULTILINE)
    print(f"---\n{document.strip()}")
