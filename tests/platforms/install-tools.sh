#!/bin/sh
# What the tests in this folder need besides Python packages: systemd-analyze. Installs it where that is possible (root, apt-get)
# and says nothing; the tests themselves decide what a missing tool means.
set -eu
command -v systemd-analyze >/dev/null 2>&1 && exit 0
[ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1 || exit 0
export DEBIAN_FRONTEND=noninteractive
{
    apt-get update
    apt-get install --yes --no-install-recommends systemd
} >/dev/null 2>&1 || true
