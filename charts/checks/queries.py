"""Parses every PromQL expression of alerts and dashboards: `queries.py MANIFESTS` reads what the chart renders."""

import json
import re
import sys

import promql_parser
import yaml


def expressions(document):
    """Yields (where, expression)."""
    if document["kind"] == "PrometheusRule":
        for group in document["spec"]["groups"]:
            for rule in group["rules"]:
                yield rule.get("alert", rule.get("record")), rule["expr"]
    if document["kind"] == "ConfigMap" and "-dashboard-" in document["metadata"]["name"]:
        (text,) = document["data"].values()
        for panel in json.loads(text)["panels"]:
            for target in panel["targets"]:
                yield panel["title"], target["expr"]


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        documents = [document for document in yaml.safe_load_all(file) if document]
    found = [pair for document in documents for pair in expressions(document)]
    for where, expression in found:
        # Grafana's variable for the width of a rate.
        expression = re.sub(r"\$__rate_interval", "5m", expression)
        try:
            promql_parser.parse(expression)
        except ValueError as error:
            sys.exit(f"{where}: {expression}: {error}")
    if len(found) < 30:
        sys.exit(f"only {len(found)} expressions were found")
    print(f"{len(found)} PromQL expressions parse")


main()
