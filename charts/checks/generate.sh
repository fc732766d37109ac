#!/usr/bin/env bash
# Writes what follows from the chart and the definitions: `generate.sh [ROOT]`, by default into this checkout.
#
#   charts/keelson/files/crds/      copies of crds/: a chart cannot reach outside of its folder
#   charts/keelson/README.md        its table of values
set -euo pipefail
cd "$(dirname "$0")/../.."
root=${1:-.}
export PYTHONPATH=${KEELSON_CACHE:?run this by make}/charts

mkdir -p "$root/charts/keelson/files/crds"
rm -f "$root"/charts/keelson/files/crds/*
cp crds/*.yaml "$root/charts/keelson/files/crds/"

readme=$(mktemp)
trap 'rm -f "$readme"' EXIT
python3 charts/checks/table.py charts/keelson/values.yaml charts/keelson/README.md >"$readme"
cp "$readme" "$root/charts/keelson/README.md"
