#!/usr/bin/env bash
# Install Debian packages. If that is not allowed, print their names and fail.
#   cluster/packages.sh libjpeg-dev zlib1g-dev
set -euo pipefail

as_root=()
[[ $(id -u) == 0 ]] || as_root=(sudo -n)
if command -v apt-get >/dev/null && { [[ $(id -u) == 0 ]] || sudo -n true 2>/dev/null; }; then
    echo "installing $*"
    "${as_root[@]}" apt-get update -qq
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$@" >/dev/null
else
    echo "error: these Debian packages, or your system's equivalents, must be installed first: $*" >&2
    exit 1
fi
