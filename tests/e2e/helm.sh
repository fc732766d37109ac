#!/usr/bin/env bash
# The chart's life on the Kubernetes that KUBECONFIG names, by helm 3 and by helm 4: install, test, upgrade, limit, uninstall, take over.
# A cluster is made at the start, and written to until the end: no acknowledged write may be missing, and no member may restart for it.
# The commands are those of docs/gitops/. tests/e2e/run.sh calls this where pod addresses can be reached.
set -euo pipefail
cd "$(dirname "$0")/../.."

scratch=$(mktemp -d)
writer=
name=written
namespaces=(team-a team-b)

finish() {
  local status=$?
  [ -z "$writer" ] || kill "$writer" 2>/dev/null || true
  if [ $status != 0 ]; then
    echo "--- helm test failed in ${step:-the beginning}; the operator's log"
    kubectl -n keelson-system logs deployment/keelson-operator --tail=40 || true
  fi
  rm -rf "$scratch"
}
trap finish EXIT

fail() {
  echo "$*" >&2
  exit 1
}

# until_true WHAT COMMAND...: asks again until the command succeeds.
until_true() {
  local what=$1 deadline=$((SECONDS + 120))
  shift
  until "$@" >/dev/null 2>&1; do
    [ $SECONDS -lt $deadline ] || fail "$what: not within two minutes"
    sleep 0.3
  done
}

document() { # the commands of a page of documentation
  bash -euo pipefail "docs/gitops/$1.sh" >"$scratch/output" 2>&1 || { cat "$scratch/output"; fail "docs/gitops/$1.sh failed"; }
}

cluster() { kubectl -n team-a get etcdcluster "$name" -o "jsonpath=$1"; }

settled() { # SIZE: the operator has seen the spec, and so many members serve
  [ "$(cluster '{.status.phase} {.status.readyMembers} {.status.observedGeneration}')" = "Running $1 $(cluster '{.metadata.generation}')" ]
}

members() { # names and uids of the members' pods, and how often each was restarted
  kubectl -n team-a get pods -l keelson.dev/cluster=$name --sort-by=.metadata.name \
    -o 'jsonpath={range .items[*]}{.metadata.name} {.metadata.uid} {.status.containerStatuses[0].restartCount}{"\n"}{end}'
}

endpoint() { echo "http://$(kubectl -n team-a get pod $name-0-0 -o 'jsonpath={.status.podIP}'):2379"; }

# Writes the numbers from 1 on; those that were acknowledged are in $scratch/acknowledged.
write() {
  local n
  for ((n = 1; ; n++)); do
    until ETCDCTL_API=3 etcdctl --endpoints="$1" --command-timeout=5s put "n/$n" "$n" >/dev/null 2>&1; do sleep 0.1; done
    echo "$n" >>"$scratch/acknowledged"
    sleep 0.05
  done
}

written() { wc -l <"$scratch/acknowledged"; }

more_writes() {
  local before
  before=$(written)
  until_true "ten more writes" eval "[ \$(written) -gt $((before + 10)) ]"
}

# The operator is limited to the namespaces that are named, and then looks after no other.
limit_to_namespaces() {
  local namespace
  step="$helm: named namespaces"
  document namespaced
  ! kubectl get clusterrole keelson-operator >/dev/null 2>&1 || fail "an operator for two namespaces has a ClusterRole"
  for namespace in "${namespaces[@]}"; do kubectl -n "$namespace" get role keelson-operator >/dev/null; done
  # One in each: the namespace that is not named has none that is looked after.
  for namespace in team-b default; do
    kubectl -n $namespace apply -f - >/dev/null <<END
{"apiVersion": "keelson.dev/v1alpha1", "kind": "EtcdCluster", "metadata": {"name": "other"},
 "spec": {"size": 1, "storage": {"size": "1Gi", "retention": {"whenDeleted": "Delete"}}}}
END
  done
  kubectl -n team-b wait --for=condition=Available --timeout=2m etcdcluster/other >/dev/null
  [ -z "$(kubectl -n default get etcdcluster other -o 'jsonpath={.status.phase}{.metadata.finalizers}')" ] ||
    fail "the operator looks after a namespace that was not named"
  kubectl -n default delete etcdcluster other >/dev/null
  kubectl -n team-b delete etcdcluster other --timeout=2m >/dev/null
  helm test keelson --namespace keelson-system >/dev/null
  more_writes
}

! kubectl get crd etcdclusters.keelson.dev >/dev/null 2>&1 || fail "this Kubernetes has a definition of EtcdCluster: somebody uses it"
for namespace in "${namespaces[@]}"; do kubectl create namespace "$namespace" >/dev/null; done
touch "$scratch/acknowledged"

for helm in helm3 helm4; do
  started=$SECONDS
  mkdir -p "$scratch/$helm"
  ln -sf "$(command -v $helm)" "$scratch/$helm/helm"
  export PATH=$scratch/$helm:$PATH

  step="$helm: install of an older chart"
  # The release before: another version, and a definition that lacks something.
  rm -rf "$scratch/old"
  cp -r charts/keelson "$scratch/old"
  sed -i 's/^version: .*/version: 0.0.1/' "$scratch/old/Chart.yaml"
  sed -i '/description: Image tag that members run/d' "$scratch/old/files/crds/etcdclusters.yaml"
  helm install keelson "$scratch/old" --namespace keelson-system --create-namespace --wait >/dev/null
  column='{.spec.versions[0].additionalPrinterColumns[?(@.name=="Version")].description}'
  description() { kubectl get crd etcdclusters.keelson.dev -o "jsonpath=$column"; }
  [ -z "$(description)" ] || fail "the older definition has the newer's column"
  if [ -z "$writer" ]; then
    kubectl -n team-a apply -f - >/dev/null <<END
{"apiVersion": "keelson.dev/v1alpha1", "kind": "EtcdCluster", "metadata": {"name": "$name"},
 "spec": {"size": 1, "storage": {"size": "1Gi", "retention": {"whenDeleted": "Delete"}}}}
END
    until_true "a cluster of one member" settled 1
    write "$(endpoint)" &
    writer=$!
  fi
  until_true "the operator of $helm takes the cluster over" settled 1
  before=$(members)

  step="$helm: upgrade"
  document upgrade
  [ -n "$(description)" ] || fail "the upgrade did not update the definition"
  [ "$(kubectl -n keelson-system get deployment keelson-operator -o 'jsonpath={.status.readyReplicas}')" = 2 ] || fail "not two operators"
  helm test keelson --namespace keelson-system >/dev/null
  more_writes

  # Once is enough: rendering is the same.
  [ $helm = helm3 ] || limit_to_namespaces

  step="$helm: uninstall"
  document uninstall
  ! kubectl -n keelson-system get deployment keelson-operator >/dev/null 2>&1 || fail "the operator is still there"
  for kind in clusterrole role rolebinding serviceaccount service; do
    left=$(kubectl get $kind -A -l app.kubernetes.io/part-of=keelson -o name)
    [ -z "$left" ] || fail "uninstalling left $left"
  done
  kubectl get crd etcdclusters.keelson.dev >/dev/null
  more_writes
  [ "$(members)" = "$before" ] || fail "members restarted: $before became $(members)"
  echo "$helm: installed, upgraded, uninstalled in $((SECONDS - started)) s; $(written) writes so far"
done

step="taking over what kubectl applied"
kubectl annotate crd etcdclusters.keelson.dev meta.helm.sh/release-name- meta.helm.sh/release-namespace- >/dev/null
! helm install keelson charts/keelson --namespace keelson-system >/dev/null 2>&1 || fail "helm took over a definition unasked"
document adopt
until_true "the operator takes the cluster over" settled 1
kubectl -n team-a scale etcdcluster/$name --replicas=3 >/dev/null
until_true "three members" settled 3

step="a backup, and a cluster with certificates"
kubectl -n team-a apply -f - >/dev/null <<END
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: backups}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
---
apiVersion: keelson.dev/v1alpha1
kind: EtcdBackup
metadata: {name: $name}
spec: {cluster: $name, store: {volume: {claimName: backups}}}
---
apiVersion: keelson.dev/v1alpha1
kind: EtcdBackupSchedule
metadata: {name: yearly}
spec: {schedule: "@yearly", backup: {cluster: $name, store: {volume: {claimName: backups}}}}
---
apiVersion: keelson.dev/v1alpha1
kind: EtcdCluster
metadata: {name: guarded}
spec: {size: 1, tls: {}}
END
kubectl -n team-a wait etcdbackup/$name --for=condition=Ready --timeout=2m >/dev/null

step="metrics"
operator_metrics() { curl -sSf "http://$(kubectl -n keelson-system get service keelson-operator -o 'jsonpath={.spec.clusterIP}'):8080/metrics"; }
for metric in backup backup_due certificate_expiry; do
  until_true "the metrics tell of $metric" eval "operator_metrics | grep -q '^keelson_operator_${metric}_timestamp_seconds{'"
done
used=$(grep -ohE '\b(keelson_operator|etcd|grpc_server|process)_[a-z_]+' charts/keelson/files/alerts.yaml charts/keelson/files/dashboards/* |
  sed 's/_bucket$//' | sort -u)
{
  operator_metrics
  curl -sSf "$(endpoint | sed 's/2379/2381/')/metrics"
} >"$scratch/metrics"
for metric in $used; do
  # A counter's comments are without its suffix.
  grep -qE "^# TYPE ${metric%_total}(_total)? " "$scratch/metrics" || fail "alerts or dashboards use $metric, which nobody exports"
done
[ "$(wc -w <<<"$used")" -gt 25 ] || fail "only these metrics were found in alerts and dashboards: $used"

step="what was written"
kill "$writer"
wait "$writer" 2>/dev/null || true
writer=
ETCDCTL_API=3 etcdctl --endpoints="$(endpoint)" get --prefix n/ --print-value-only | sed '/^$/d' | sort >"$scratch/stored"
missing=$(comm -13 "$scratch/stored" <(sort "$scratch/acknowledged") | head)
[ -z "$missing" ] || fail "acknowledged and not there: $missing"
kubectl -n team-a delete etcdbackup/"$name" etcdbackupschedule/yearly --timeout=1m >/dev/null
kubectl -n team-a delete pvc backups >/dev/null
kubectl -n team-a delete etcdcluster guarded "$name" --timeout=2m >/dev/null

step="the pages' commands from the beginning"
document uninstall
document install
document cluster
kubectl delete -f deploy/samples/cluster.yaml --timeout=2m >/dev/null
document uninstall
kubectl delete pvc -l keelson.dev/cluster=demo >/dev/null
kubectl delete namespace "${namespaces[@]}" keelson-system >/dev/null
kubectl delete -k crds >/dev/null
echo "helm: $(wc -l <"$scratch/acknowledged") acknowledged writes are there"
