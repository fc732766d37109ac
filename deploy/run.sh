#!/usr/bin/env bash
# A cluster to try out, from nothing: `deploy/run.sh up` builds, starts a local Kubernetes with the operator and one
# EtcdCluster, prints lines to copy, and stops everything on Ctrl-C. The next `up` finds the data again;
# `deploy/run.sh clean` removes it. With KUBECONFIG set, `up` uses that cluster and its images instead.
set -euo pipefail
cd "$(dirname "$0")/.."

usage="usage: deploy/run.sh up|clean"
state=${KEELSON_HOME:-${XDG_STATE_HOME:-$HOME/.local/state}/keelson}
cache=${KEELSON_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/keelson}
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$cache/target}
bin=$CARGO_TARGET_DIR/release
etcd_port=${KEELSON_ETCD_PORT:-2379}
api_port=${KEELSON_API_PORT:-16443}
name=demo
# The kubeconfig that an earlier run printed is ours, not somebody's cluster.
[ "${KUBECONFIG:-}" != "$state/kubeconfig" ] || unset KUBECONFIG
children=()

phase() { printf '%4ds  %s\n' "$SECONDS" "$*"; }

fail() {
  printf '\n%s\n' "$*" >&2
  exit 1
}

# Ends what was started, the last first, and waits for it: pods get their grace period.
finish() {
  local code=$? index
  trap - EXIT
  trap '' INT TERM HUP
  [ ${#children[@]} = 0 ] || phase "stopping"
  for ((index = ${#children[@]} - 1; index >= 0; index--)); do
    kill -TERM "${children[index]}" 2>/dev/null || true
    wait "${children[index]}" 2>/dev/null || true
  done
  exit "$code"
}

build() {
  phase "building (the first time takes a quarter of an hour on 2 cores)"
  local quiet=--quiet
  [ ! -t 2 ] || quiet=
  cargo build --release --locked $quiet --workspace --bins
}

start_local() {
  mkdir -p "$state"
  phase "starting a local Kubernetes in $state"
  # The end of its log is shown when it fails: the reason, not a backtrace.
  RUST_BACKTRACE=0 "$bin/keelson-local" up --data-dir "$state" --port "$api_port" \
    --image "keelson/keelson-server=$bin/keelson-server" --image "keelson/keelson-operator=$bin/keelson-operator" \
    --publish "$etcd_port=default/$name-client:2379" >"$state/up.out" 2>"$state/up.log" &
  children+=($!)
  until grep -q 'is up' "$state/up.out"; do
    kill -0 "${children[0]}" 2>/dev/null || fail "It did not start: $(tail -n 5 "$state/up.log")"
    sleep 0.2
  done
  export KUBECONFIG=$state/kubeconfig
}

install_operator() {
  phase "installing the EtcdCluster definition and the operator"
  # A Deployment from before the chart selects its pods in another way, which cannot be changed.
  local selector='{.spec.selector.matchLabels.app\.kubernetes\.io/instance}'
  selector=$(kubectl -n keelson-system get deployment keelson-operator -o "jsonpath=$selector" 2>/dev/null || echo none)
  [ -n "$selector" ] || kubectl -n keelson-system delete deployment keelson-operator >/dev/null
  kubectl apply --server-side --force-conflicts -k deploy/operator >/dev/null
  kubectl wait --for=condition=Established --timeout=60s crd/etcdclusters.keelson.dev >/dev/null
  kubectl -n keelson-system rollout status deployment/keelson-operator --timeout=180s >/dev/null ||
    fail "The operator does not start: kubectl -n keelson-system describe pods"
}

# One line whenever the status has something new to say, until all members serve.
follow_cluster() {
  local line last='' template
  template='{.status.phase}{"|"}{.status.readyMembers}{"|"}{.spec.size}{"|"}{.status.reason}'
  template+='{"|"}{.status.conditions[?(@.type=="Available")].status}'
  while :; do
    line=$(kubectl get etcdcluster "$name" -o "jsonpath=$template" 2>/dev/null || true)
    if [ "$line" != "$last" ] && [ -n "${line//|/}" ]; then
      IFS='|' read -r word ready size reason available <<<"$line"
      phase "$name: ${word:-waiting}, ${ready:-0} of $size members serve. $reason"
      last=$line
      if [ "$available" = True ] && [ "${ready:-0}" = "$size" ]; then return; fi
    fi
    [ ${#children[@]} = 0 ] || kill -0 "${children[0]}" 2>/dev/null || fail "It ended: $(tail -n 5 "$state/up.log")"
    [ "$SECONDS" -lt "$deadline" ] || fail "Not available after 5 minutes: kubectl describe etcdcluster $name"
    sleep 0.5
  done
}

print_lines() {
  local path=
  case $(command -v kubectl) in "$cache"/bin/*) path="export PATH=$cache/bin:\$PATH"$'\n  ' ;; esac
  cat <<END

The cluster is available. In another terminal:

  ${path}export KUBECONFIG=$KUBECONFIG
  kubectl get etcdcluster
  etcdctl --endpoints=127.0.0.1:$etcd_port put hello world
  etcdctl --endpoints=127.0.0.1:$etcd_port get hello
  kubectl scale etcdcluster/$name --replicas=5

Ctrl-C stops everything; the next \`make run\` finds the data again, \`make clean\` removes it.
END
}

up() {
  local own=true
  trap finish EXIT
  trap 'exit 0' INT TERM HUP
  [ -z "${KUBECONFIG:-}" ] || own=false
  if $own; then
    build
    start_local
  else
    phase "using the cluster of KUBECONFIG=$KUBECONFIG"
  fi
  install_operator
  # Only the first time: a size that was changed since stays.
  kubectl get etcdcluster "$name" >/dev/null 2>&1 || kubectl apply -f deploy/samples/cluster.yaml >/dev/null
  deadline=$((SECONDS + 300))
  follow_cluster
  if ! $own; then
    kubectl port-forward "service/$name-client" "$etcd_port:2379" >/dev/null 2>&1 &
    children+=($!)
  fi
  # The status may be from before a restart.
  until etcdctl --endpoints="127.0.0.1:$etcd_port" --command-timeout=2s get keelson >/dev/null 2>&1; do
    [ "$SECONDS" -lt "$deadline" ] || fail "127.0.0.1:$etcd_port does not answer"
    sleep 0.5
  done
  print_lines
  if [ ${#children[@]} -gt 0 ]; then
    # Returns at once when a signal comes, and the trap does the rest.
    if wait "${children[0]}"; then exit 0; fi
    fail "It ended by itself: $(tail -n 5 "$state/up.log" 2>/dev/null)"
  fi
}

clean() {
  if [ -x "$bin/keelson-local" ] && [ -d "$state" ]; then
    "$bin/keelson-local" down --data-dir "$state" 2>/dev/null || true
  fi
  rm -rf "$state"
  echo "removed $state"
}

case ${1:-} in
  up) up ;;
  clean) clean ;;
  *) fail "$usage" ;;
esac
