#!/usr/bin/env bash
# The files of a program's image: `root.sh PROGRAM FOLDER` puts the program, the shared libraries that it loads, and the user it runs as
# below FOLDER. The same program and libraries give the same files, times included: those of SOURCE_DATE_EPOCH, by default of the last
# commit. With BASE, the libraries are the base image's, and only the program is put there.
set -euo pipefail

program=${1:?usage: root.sh PROGRAM FOLDER}
root=${2:?usage: root.sh PROGRAM FOLDER}
epoch=${SOURCE_DATE_EPOCH:-$(git -C "$(dirname "$0")" log -1 --format=%ct)}

install -D -m 755 "$program" "$root/usr/local/bin/$(basename "$program")"
# Lines of the source stay, for backtraces, in the build's own copy.
strip --strip-debug "$root/usr/local/bin/$(basename "$program")"
if [ -z "${BASE:-}" ]; then
  # The loader is among them.
  for library in $(ldd "$program" | grep -oE '/[^ ]+'); do install -D -m 755 "$library" "$root$library"; done
  install -d "$root/etc"
  # Authorities of the public Internet, for whatever a program asks there.
  authorities=/etc/ssl/certs/ca-certificates.crt
  [ ! -e $authorities ] || install -D -m 644 $authorities "$root$authorities"
  echo 'keelson:x:65532:65532::/:/nonexistent' >"$root/etc/passwd"
  echo 'keelson:x:65532:' >"$root/etc/group"
  echo 'hosts: files dns' >"$root/etc/nsswitch.conf"
fi
find "$root" -type d -exec chmod 755 {} +
find "$root" -exec touch --no-dereference --date="@$epoch" {} +
