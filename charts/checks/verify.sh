#!/usr/bin/env bash
# The checks of charts/ and of what is rendered from it; `make verify` runs them. Nothing is written, nothing is downloaded.
set -euo pipefail
cd "$(dirname "$0")/../.."
export PYTHONPATH=${KEELSON_CACHE:?run this by make}/charts
chart=charts/keelson
oldest=1.29.0
newest=1.37.0
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

fail() {
  printf '%s\n' "$*" >&2
  exit 1
}

# What is generated is as it would be generated.
charts/checks/generate.sh "$scratch/generated"
for path in $(cd "$scratch/generated" && find . -type f); do
  diff -u "$path" "$scratch/generated/$path" || fail "$path is not as its sources say: run \`make generate\`"
done
diff -rq --exclude=kustomization.yaml crds "$chart/files/crds" || fail "the chart has other definitions than crds/: run \`make generate\`"
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
grep -qx "appVersion: v$version" $chart/Chart.yaml || fail "appVersion in $chart/Chart.yaml is not v$version, the programs' version"

# Both versions of helm accept it, strictly, and render the same from every set of values: those that Argo CD and Flux are told, too.
mkdir "$scratch/values"
cp $chart/values.yaml "$scratch/values/default-values.yaml"
field() { python3 charts/checks/field.py "$@"; }
field Application spec/source/helm/valuesObject <deploy/argocd/application.yaml >"$scratch/values/argocd-values.yaml"
field HelmRelease spec/values <deploy/flux/release.yaml >"$scratch/values/flux-values.yaml"
for values in "$scratch"/values/*-values.yaml $chart/ci/*-values.yaml; do
  name=$(basename "$values" -values.yaml)
  for helm in helm3 helm4; do
    $helm lint --strict --quiet --namespace keelson-system $chart --values "$values"
    $helm template keelson $chart --namespace keelson-system --kube-version $newest --values "$values" >"$scratch/$helm.yaml"
  done
  # They order kinds that they do not know differently.
  diff <(sort "$scratch/helm3.yaml") <(sort "$scratch/helm4.yaml") || fail "helm 3 and 4 render $name differently"
  rm "$scratch/helm3.yaml"
  mv "$scratch/helm4.yaml" "$scratch/$name.yaml"
done
# What the schema of the values has to refuse.
refused=(replicas=-1 image.pullPolicy=Sometimes 'watchNamespaces=a' unknown=1 metrics.unknown=1 image.digest=latest crds.keep=yes)
for value in "${refused[@]}"; do
  ! helm4 template keelson $chart --set "$value" >/dev/null 2>&1 || fail "values.schema.json lets $value pass"
done

# The kustomize base and what is made of it.
kubectl kustomize deploy/operator >"$scratch/base.yaml"
kubectl kustomize deploy/overlay >"$scratch/overlay.yaml"

# Argo CD's ConfigMap gets the health check, and keeps what it has.
mkdir "$scratch/argocd"
kubectl create configmap argocd-cm --namespace argocd --from-literal=url=https://argocd.example.org --dry-run=client --output yaml \
  >"$scratch/argocd/argocd-cm.yaml"
printf '%s\n' "resources: [argocd-cm.yaml]" "components: [$(realpath --relative-to="$scratch/argocd" deploy/argocd)]" \
  >"$scratch/argocd/kustomization.yaml"
kubectl kustomize "$scratch/argocd" >"$scratch/argocd-cm.yaml"
field ConfigMap data/resource.customizations.health.keelson.dev_EtcdCluster <"$scratch/argocd-cm.yaml" |
  diff deploy/argocd/health.lua - || fail "deploy/argocd does not bring health.lua into argocd-cm"
field ConfigMap data/url <"$scratch/argocd-cm.yaml" >/dev/null

python3 -m yamllint --strict --config-file charts/checks/yamllint.yaml charts/checks $chart/{Chart,values}.yaml $chart/ci \
  $chart/files/alerts.yaml deploy/{operator/{namespace,kustomization}.yaml,overlay,samples,argocd,flux}
python3 -m yamllint --strict --config-data "{extends: relaxed, rules: {line-length: disable, indentation: disable, commas: disable}}" \
  "$scratch"/*.yaml
python3 charts/checks/schemas.py $oldest,$newest "$scratch"/*.yaml operator/src/build/golden/*.yaml
python3 charts/checks/queries.py "$scratch/all.yaml"
python3 charts/checks/health.py deploy/argocd/health.lua
python3 charts/checks/snippets.py docs/gitops.md charts/keelson/README.md -- docs/{auth,backup,kubectl,lifecycle,operator-tls,repair,upgrades}.md
python3 -m checkov.main --config-file charts/checks/checkov.yaml --directory "$scratch"
python3 -m checkov.main --config-file charts/checks/checkov-operator.yaml --directory operator/src/build/golden
