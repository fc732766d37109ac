#!/usr/bin/env bash
# Container images of the server and the operator, by docker, podman or buildah (ENGINE names another, with options).
# The names are those that the manifests use; REPOSITORY and TAG change them. Pushing is yours.
#
# Nothing is downloaded: an image has the program and its libraries, from this machine. BASE names an image to put the program into
# instead, such as debian:bookworm-slim; it must have libc and libstdc++ of at least this machine's versions.
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
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
export SOURCE_DATE_EPOCH
# The same image from the same files: the time of its making is that of the commit.
case $engine in
*docker*) same=(--build-arg SOURCE_DATE_EPOCH) ;;
*) same=(--timestamp "$SOURCE_DATE_EPOCH") ;;
esac

context=$(mktemp -d)
trap 'rm -rf "$context"' EXIT
for program in keelson-server keelson-operator; do
  deploy/images/root.sh "$programs/$program" "$context/$program"
done
for program in keelson-server keelson-operator; do
  # shellcheck disable=SC2086 # options belong to it
  $engine build "${same[@]}" --build-arg BASE="${BASE:-scratch}" --file deploy/images/Dockerfile --target "$program" \
    --tag "$repository/$program:$tag" "$context"
  echo "$repository/$program:$tag"
done
