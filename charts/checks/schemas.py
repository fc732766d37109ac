"""Validates Kubernetes manifests: `schemas.py VERSIONS FILE...`.

Builtin kinds are held to the strict schemas of each of the Kubernetes versions (comma-separated). Custom resources, for which there are
none, are named at the end, so that nothing goes unseen.
"""

import logging
import sys

import kubernetes_validate
import yaml


def main():
    versions, *paths = sys.argv[1:]
    logging.disable()
    failures, unknown, checked = [], set(), 0
    for path in paths:
        with open(path, encoding="utf-8") as file:
            documents = [document for document in yaml.safe_load_all(file) if document]
        for document in documents:
            name = f"{path}: {document['kind']} {document['metadata'].get('name')}"
            for version in versions.split(","):
                try:
                    kubernetes_validate.validate(document, version, strict=True)
                    checked += 1
                except kubernetes_validate.SchemaNotFoundError:
                    unknown.add(f"{document['apiVersion']} {document['kind']}")
                except kubernetes_validate.ValidationError as error:
                    failures.append(f"{name}, Kubernetes {version}: {'.'.join(map(str, error.path))}: {error.message}")
    print(f"{checked} objects match the schemas of Kubernetes {versions}; not known to them: {', '.join(sorted(unknown)) or 'none'}")
    if failures:
        sys.exit("\n".join(failures))


main()
