#!/bin/sh
# SPDX-License-Identifier: MIT
# Makes the virtual environment $1, and installs the Debian packages for it and for the build that
# are missing, and for the commands named after $1. Without apt-get or root it says what is missing.
set -eu

fail() {
  echo "onnxloss: $*" >&2
  exit 1
}

find_python() {
  for candidate in "${PYTHON:-python3}" python3.13 python3.12 python3.11 python3.10; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
}

python=$(find_python)
missing=""
[ -n "$python" ] || missing="$missing python3"
# Debian has venv without ensurepip until python3-venv is there.
"${python:-false}" -c 'import ensurepip, venv' 2>/dev/null || missing="$missing python3-venv"
"${CXX:-c++}" --version >/dev/null 2>&1 || missing="$missing g++"
venv=$1
shift
for needed in cmake "$@"; do
  command -v "$needed" >/dev/null || missing="$missing $needed"
done

if [ -n "$missing" ]; then
  if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    fail "missing:$missing (Debian package names; Python 3.10 or newer, a C++17 compiler)." \
      "Get them with: sudo apt-get install$missing"
  fi
  echo "Installing the Debian packages$missing"
  { apt-get -qq update && DEBIAN_FRONTEND=noninteractive \
    apt-get -qq install --yes --no-install-recommends $missing; } >/dev/null ||
    fail "apt-get could not install:$missing"
  python=$(find_python)
  [ -n "$python" ] || fail "the Debian package python3 is older than Python 3.10; install a newer one."
fi

rm -rf "$venv"
"$python" -m venv "$venv"
