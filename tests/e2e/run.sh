#!/usr/bin/env bash
# The end-to-end tests: on the Kubernetes that KUBECONFIG names, or on a keelson-local of their own.
#
# What a real Kubernetes needs for it is in docs/real-kubernetes.md. The operator is installed from this checkout either way, and must
# not be there before: the chart comes first, and operators on an API server that fails. Arguments go to the test program (a filter,
# say), and then it runs alone; with --api-faults or --scale as the first of them, that of those operators, or of one with many
# clusters. With --build nothing is run.
set -euo pipefail
cd "$(dirname "$0")/../.."

target=${CARGO_TARGET_DIR:-$PWD/target}
cargo build --release --locked --workspace --bins
# Built before the cluster starts: compiling takes the cores that its timeouts need. The whole workspace is named so that
# dependencies are those of `make test`.
build=(cargo test --release --locked --workspace --features keelson-e2e/cluster --no-run
  --test e2e --test api_faults --test scale)
"${build[@]}"
if [ "${1:-}" = --build ]; then exit; fi
deploy/images/check.sh
program() {
  "${build[@]}" --message-format=json 2>/dev/null |
    jq -r --arg name "$1" 'select(.reason == "compiler-artifact" and .target.name == $name) | .executable'
}
e2e=$(program e2e)
api_faults=$(program api_faults)
scale=$(program scale)
export KEELSON_OPERATOR=$target/release/keelson-operator
# An error tells where it comes from; a backtrace of it would push that out of sight.
export RUST_LIB_BACKTRACE=0

# Everything, or what the arguments ask for; commands are put after what is in `where`.
where=()
run() {
  case ${1:-} in
  --api-faults | --scale)
    local name=${1#--}
    kubectl apply --server-side -k crds >/dev/null
    program=${name//-/_}
    "${where[@]}" "${!program}" --test-threads=1 --nocapture "${@:2}"
    return
    ;;
  "")
    "${where[@]}" tests/e2e/helm.sh
    run --api-faults
    ;;
  esac
  bash -euo pipefail docs/gitops/kustomize.sh
  "${where[@]}" "$e2e" --test-threads=1 --nocapture "$@"
}

if [ -n "${KUBECONFIG:-}" ]; then
  run "$@"
  exit
fi

data=$(mktemp -d)
log=$data/local.log
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
"$target/release/keelson-local" up --data-dir "$data" --port "$port" --restart-backoff 1 --authorize \
  --image keelson/keelson-server="$target/release/keelson-server" \
  --image keelson/keelson-operator="$target/release/keelson-operator" >"$log" 2>&1 &
local_pid=$!
finish() {
  status=$?
  if [ $status != 0 ]; then
    echo "--- the end of keelson-local's log"
    tail -n 60 "$log"
    echo "--- events"
    kubectl --kubeconfig "$data/kubeconfig" get events -A 2>&1 | tail -n 40 || true
    echo "--- the operator's log"
    kubectl --kubeconfig "$data/kubeconfig" -n keelson-system logs deployment/keelson-operator --tail=60 || true
  fi
  kill "$local_pid" 2>/dev/null || true
  wait "$local_pid" 2>/dev/null || true
  rm -rf "$data"
}
trap finish EXIT

deadline=$((SECONDS + 60))
until kubectl --kubeconfig "$data/kubeconfig" get --raw /readyz >/dev/null 2>&1; do
  if [ $SECONDS -gt $deadline ] || ! kill -0 "$local_pid" 2>/dev/null; then
    echo "keelson-local did not become ready" >&2
    exit 1
  fi
  sleep 0.2
done
export KUBECONFIG=$data/kubeconfig
# Where pod addresses can be reached, and the API server by another KUBECONFIG.
where=("$target/release/keelson-local" enter --data-dir "$data" --)
run "$@"
# Only all scenarios together use all that the operator may do.
[ $# != 0 ] || kubectl get clusterroles,roles --all-namespaces --output=json | python3 tests/e2e/rights.py "$log"
