#!/usr/bin/env bash
# One operator with many EtcdClusters, on a keelson-local of its own that has no images: members are pods that never run.
#
#   tests/scale/run.sh [CLUSTERS] [SECONDS]     by default 200 clusters, and 60 seconds at rest
#
# Prints what the operator takes, and fails where it takes more than docs/scale.md promises.
set -euo pipefail
cd "$(dirname "$0")/../.."
clusters=${1:-200}
rest=${2:-60}
programs=${CARGO_TARGET_DIR:?run this by make}/release
data=$(mktemp -d)
export KUBECONFIG=$data/kubeconfig
ports=$(python3 -c 'import socket; s = [socket.socket() for _ in "ab"]; [x.bind(("127.0.0.1", 0)) for x in s]; print(*[x.getsockname()[1] for x in s])')
read -r api probes <<<"$ports"
"$programs/keelson-local" up --data-dir "$data" --port "$api" >"$data/local.log" 2>&1 &
local_pid=$!
operator_pid=
finish() {
  [ -z "$operator_pid" ] || kill "$operator_pid" 2>/dev/null || true
  kill "$local_pid" 2>/dev/null || true
  wait
  rm -rf "$data"
}
trap finish EXIT

# within SECONDS COMMAND...: until it succeeds.
within() {
  local end=$((SECONDS + $1))
  shift
  until "$@" >/dev/null 2>&1; do
    [ $SECONDS -lt $end ] || { echo "not in time: $*" >&2; exit 1; }
    sleep 0.2
  done
}
within 60 kubectl get --raw /readyz
kubectl create namespace keelson-system >/dev/null
kubectl apply --server-side -k crds >/dev/null
"$programs/keelson-operator" run --listen "127.0.0.1:$probes" >"$data/operator.log" 2>&1 &
operator_pid=$!

for n in $(seq "$clusters"); do
  printf -- '---\napiVersion: keelson.dev/v1alpha1\nkind: EtcdCluster\nmetadata:\n  name: c%03d\nspec:\n  size: 1\n' "$n"
done >"$data/clusters.yaml"
kubectl create -f "$data/clusters.yaml" >/dev/null
all_seen() {
  [ "$(kubectl get statefulsets --no-headers | wc -l)" -eq "$clusters" ]
}
within 300 all_seen

# Seconds of processor time, and KiB of memory.
spent() {
  awk -v tick="$(getconf CLK_TCK)" '{ print ($14 + $15) / tick }' "/proc/$operator_pid/stat"
}
sleep 20
before=$(spent)
sleep "$rest"
after=$(spent)
memory=$(awk '/^VmHWM/ { print int($2 / 1024) }' "/proc/$operator_pid/status")
cpu=$(awk -v a="$before" -v b="$after" -v s="$rest" 'BEGIN { printf "%.1f", (b - a) / s * 100 }')

answered() {
  [ "$(kubectl get etcdcluster c001 -o jsonpath='{.metadata.generation} {.status.observedGeneration}' | awk '{ print $1 == $2 }')" = 1 ]
}
begin=$(date +%s.%N)
kubectl patch etcdcluster c001 --type=merge -p '{"spec":{"options":{"snapshot-count":"5000"}}}' >/dev/null
until answered; do :; done
change=$(awk -v a="$begin" -v b="$(date +%s.%N)" 'BEGIN { printf "%.1f", b - a }')

echo "$clusters clusters: at rest $cpu % of a core, at most $memory MiB; a change answered after $change s"
awk -v m="$memory" -v c="$change" 'BEGIN { exit !(m < 150 && c < 2) }' || { echo "that is too much" >&2; exit 1; }
