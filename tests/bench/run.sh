#!/usr/bin/env bash
# Puts on keelson-server and on a reference etcd in turn, with 1 and with 3 members; both on this machine, one after
# the other, so that only the relation of the figures means something elsewhere.
#
#   tests/bench/run.sh [options of keelson-bench]
#
# KEELSON_REFERENCE_ETCD names the etcd to compare with. The members' data goes to a folder below TMPDIR.
set -euo pipefail
cd "$(dirname "$0")/../.."

target=${CARGO_TARGET_DIR:-target}/release
ours=${KEELSON_SERVER:-$target/keelson-server}
reference=${KEELSON_REFERENCE_ETCD:-etcd}
cargo build --release --locked --quiet --workspace --bins

work=$(mktemp -d)
pids=()
stop() {
  for pid in "${pids[@]}"; do kill -9 "$pid" 2>/dev/null || true; done
  wait 2>/dev/null || true
  rm -rf "$work"
}
trap stop EXIT

# start PROGRAM NAME SIZE PORT: a cluster whose member n serves clients at PORT+2n and peers at PORT+2n+1.
start() {
  local program=$1 name=$2 size=$3 port=$4 n list=
  for ((n = 0; n < size; n++)); do list+=${list:+,}m$n=http://127.0.0.1:$((port + 2 * n + 1)); done
  for ((n = 0; n < size; n++)); do
    "$program" --name "m$n" --data-dir "$work/$name-$n" --initial-cluster "$list" --initial-cluster-token "$name" \
      --listen-client-urls "http://127.0.0.1:$((port + 2 * n))" \
      --advertise-client-urls "http://127.0.0.1:$((port + 2 * n))" \
      --listen-peer-urls "http://127.0.0.1:$((port + 2 * n + 1))" \
      --initial-advertise-peer-urls "http://127.0.0.1:$((port + 2 * n + 1))" \
      --quota-backend-bytes 8000000000 --log-level error 2>"$work/$name-$n.log" &
    pids+=($!)
  done
  for ((n = 0; n < size; n++)); do
    timeout 60 sh -c "until curl -sf http://127.0.0.1:$((port + 2 * n))/health >/dev/null; do sleep 0.1; done" || {
      echo "$name did not become healthy:" >&2
      tail -n 20 "$work/$name-$n.log" >&2
      exit 1
    }
  done
}

# report: memory and CPU time of each member of the last started clusters.
report() {
  local pid
  for pid in "${pids[@]}"; do
    awk -v name="$(ps -o comm= -p "$pid")" '{ printf "%s: %.0f MiB resident, %.2f s of CPU\n", name, $24 * 4096 / 1048576, ($14 + $15) / 100 }' "/proc/$pid/stat"
  done
}

for size in 1 3; do
  echo "== $size member(s); puts of 256 bytes through the first"
  start "$ours" "keelson$size" "$size" 42379
  start "$reference" "etcd$size" "$size" 43379
  "$target/keelson-bench" "$@" keelson=http://127.0.0.1:42379 etcd=http://127.0.0.1:43379
  report
  for pid in "${pids[@]}"; do kill -9 "$pid" 2>/dev/null || true; done
  wait 2>/dev/null || true
  pids=()
done
