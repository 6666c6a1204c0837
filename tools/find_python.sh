#!/bin/sh
# SPDX-License-Identifier: MIT
# Prints an interpreter of Python $1, on the path or among pyenv's.
set -eu
for python in "python$1" "$(pyenv prefix "$1" 2>/dev/null)/bin/python"; do
  if found=$("$python" -c 'import sys; print(sys.executable, *sys.version_info[:2])' 2>/dev/null); then
    case $found in
      *" ${1%.*} ${1#*.}") echo "${found% * *}" && exit ;;
    esac
  fi
done
exit 1
