#!/usr/bin/env bash
# Container images of the server and the operator, by docker, podman or buildah (ENGINE names another, with options).
# The names are those that the manifests use; REPOSITORY and TAG change them. Pushing is yours.
set -euo pipefail
cd "$(dirname "$0")/../.."

programs=${CARGO_TARGET_DIR:-$PWD/target}/release
repository=${REPOSITORY:-keelson}
tag=${TAG:-v$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)}
engine=${ENGINE:-$(command -v docker || command -v podman || command -v buildah || true)}
[ -n "$engine" ] || {
  echo "no docker, podman or buildah is installed: install one, or name another by ENGINE" >&2
  exit 1
}

context=$(mktemp -d)
trap 'rm -rf "$context"' EXIT
for program in keelson-server keelson-operator; do
  install -m 755 "$programs/$program" "$context/"
  # shellcheck disable=SC2086 # options belong to it
  $engine build --file deploy/images/Dockerfile --target "$program" --tag "$repository/$program:$tag" "$context"
  echo "$repository/$program:$tag"
done
