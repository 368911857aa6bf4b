#!/bin/sh
# Puts ONNX Runtime's C/C++ headers into a folder with the help of apt, as any user, changing nothing on the system:
#
#     sh trt_plugins/onnxruntime/fetch_headers.sh build/onnxruntime-headers
#
# No wheel carries these headers; Debian trixie's libonnxruntime-dev (1.21) does. So apt gets a configuration of its own
# (lists, cache and status under the folder), which names the suite trixie at whatever Debian mirror the machine is
# already configured for, proxies included. The package is unpacked, not installed: its dependencies do not matter.
# Prints the include folder; exit 1 with one line where there is no apt, no Debian mirror, or no answer within a minute.
set -eu

destination=${1:?usage: fetch_headers.sh FOLDER}
suite=trixie
package=libonnxruntime-dev

give_up() { echo "fetch_headers.sh: $1" >&2; exit 1; }

for tool in apt-get dpkg-deb timeout; do
    command -v "$tool" >/dev/null 2>&1 || give_up "no $tool here"
done

# --no-release-info lists what is configured even where no list was ever downloaded (a slim container).
mirrors=$(apt-get indextargets --no-release-info --format '$(REPO_URI)' 'Created-By: Packages' 2>/dev/null |
    grep '/debian/*$' | sort -u) || give_up "apt names no Debian mirror"

mkdir -p "$destination"
work=$(mktemp -d "$destination/apt.XXXXXX")
trap 'rm -rf "$work"' EXIT
work=$(cd "$work" && pwd)
mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$work/download" "$work/unpacked"
: > "$work/status"

isolated_apt() {
    # Sandbox user: root's apt would otherwise drop to a user who may not enter our folder.
    timeout 50 apt-get -qq \
        -o Dir::Etc::sourcelist="$work/sources.list" -o Dir::Etc::sourceparts=/dev/null \
        -o Dir::Etc::preferences=/dev/null -o Dir::Etc::preferencesparts=/dev/null \
        -o Dir::State="$work" -o Dir::State::lists="$work/lists" -o Dir::State::status="$work/status" \
        -o Dir::Cache="$work/cache" -o APT::Sandbox::User="$(id -un)" \
        -o Acquire::Languages=none -o Acquire::Retries=1 \
        -o Acquire::http::Timeout=10 -o Acquire::https::Timeout=10 "$@"
}

keyring=/usr/share/keyrings/debian-archive-keyring.gpg
options=
[ -r "$keyring" ] && options="[signed-by=$keyring]"

for mirror in $mirrors; do
    echo "deb $options $mirror $suite main" > "$work/sources.list"
    isolated_apt update >"$work/log" 2>&1 || continue
    (cd "$work/download" && isolated_apt download "$package") >>"$work/log" 2>&1 || continue
    dpkg-deb -x "$work"/download/"$package"_*.deb "$work/unpacked"
    header=$(find "$work/unpacked" -name onnxruntime_cxx_api.h | head -n 1)
    [ -n "$header" ] || continue
    rm -rf "$destination/include"
    mv "$(dirname "$header")" "$destination/include"
    echo "$destination/include"
    exit 0
done
give_up "no mirror of this machine gave $package of $suite"
