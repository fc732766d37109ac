#!/usr/bin/env bash
# Runs the programs in what their images have and nothing else, as the images' user, with a root that cannot be written to; and checks that
# the files of an image are the same each time. No container engine is needed.
set -euo pipefail
cd "$(dirname "$0")/../.."

programs=${CARGO_TARGET_DIR:-$PWD/target}/release
scratch=$(mktemp -d)
server=
finish() {
  [ -z "$server" ] || kill "$server" 2>/dev/null || true
  rm -rf "$scratch"
}
trap finish EXIT

fail() {
  echo "$*" >&2
  exit 1
}

# inside PROGRAM ARGUMENT...: in its image's files.
inside() {
  local program=$1
  shift
  exec bwrap --unshare-user --uid 65532 --gid 65532 --unshare-pid --die-with-parent --clearenv --ro-bind "$scratch/$program" / \
    --proc /proc --dev /dev --bind "$scratch/data" /data -- "/usr/local/bin/$program" "$@"
}

mkdir "$scratch/data"
for program in keelson-server keelson-operator; do
  deploy/images/root.sh "$programs/$program" "$scratch/$program"
  # Where the volume is mounted, and what a container runtime makes.
  deploy/images/root.sh "$programs/$program" "$scratch/again/$program"
  digests=()
  for root in "$scratch/$program" "$scratch/again/$program"; do
    digests+=("$(tar -C "$root" --sort=name --owner=0 --group=0 --numeric-owner -cf - . | sha256sum)")
  done
  [ "${digests[0]}" = "${digests[1]}" ] || fail "the files of $program's image differ from time to time"
  echo "image of $program: $(du -sm --apparent-size "$scratch/$program" | cut -f 1) MiB, $(find "$scratch/$program" -type f | wc -l) files"
  mkdir -p "$scratch/$program"/{proc,dev,data}
  (inside "$program" --version)
done

port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
(inside keelson-server --data-dir=/data/store --listen-client-urls="http://127.0.0.1:$port" --advertise-client-urls="http://127.0.0.1:$port" \
  --listen-peer-urls=http://127.0.0.1:0 >"$scratch/log" 2>&1) &
server=$!
deadline=$((SECONDS + 30))
until curl -sf "http://127.0.0.1:$port/readyz" >/dev/null; do
  if [ $SECONDS -gt $deadline ] || ! kill -0 "$server" 2>/dev/null; then
    tail -n 5 "$scratch/log" >&2
    fail "the server does not become ready in its image's files"
  fi
  sleep 0.2
done
echo "the server serves in its image's files"
