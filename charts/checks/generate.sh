#!/usr/bin/env bash
# Writes what follows from the chart and the definitions: `generate.sh [ROOT]`, by default into this checkout.
#
#   charts/keelson/files/crds/      copies of crds/: a chart cannot reach outside of its folder
#   charts/keelson/README.md        its table of values
#   crds/kustomization.yaml         the list of the definitions
#   deploy/operator/operator.yaml   what the chart renders by default
set -euo pipefail
cd "$(dirname "$0")/../.."
root=${1:-.}
export PYTHONPATH=${KEELSON_CACHE:?run this by make}/charts

mkdir -p "$root/charts/keelson/files/crds"
rm -f "$root"/charts/keelson/files/crds/*

cp crds/etcd*.yaml "$root/charts/keelson/files/crds/"

written=$(mktemp)
trap 'rm -f "$written"' EXIT
# write PATH COMMAND...: the file is replaced only when the command succeeded, which may read it.
write() {
  local path=$root/$1
  shift
  "$@" >"$written"
  mkdir -p "$(dirname "$path")"
  cp "$written" "$path"
}

base() {
  helm4 template keelson charts/keelson --namespace keelson-system --skip-tests | python3 charts/checks/manifests.py
}

definitions() {
  echo "# Written by \`make generate\`."
  echo "apiVersion: kustomize.config.k8s.io/v1beta1"
  echo "kind: Kustomization"
  echo "resources:"
  (cd crds && printf -- '  - %s\n' etcd*.yaml)
}

write charts/keelson/README.md python3 charts/checks/table.py charts/keelson/values.yaml charts/keelson/README.md
write crds/kustomization.yaml definitions
write deploy/operator/operator.yaml base
