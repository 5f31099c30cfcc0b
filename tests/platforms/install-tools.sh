#!/bin/sh
# What tests need besides Python packages, installed where that is possible (root, apt-get):
#   always      systemd-analyze, and openssl for certificates: seconds
#   with "all", or where CI is set: a browser for the pages, Prometheus and its Pushgateway for the rules and metrics:
#               minutes, the first time
# Says nothing, and never fails: the tests themselves decide what a missing tool means (tests/support/tools.py).
set -eu
packages=
want() { # program, packages
    command -v "$1" >/dev/null 2>&1 || packages="$packages $2"
}
want systemd-analyze systemd
want openssl openssl
if [ "${1:-}" = all ] || [ -n "${CI:-}" ]; then
    want chromium "chromium fonts-dejavu-core"
    want prometheus prometheus
    want prometheus-pushgateway prometheus-pushgateway
fi
[ -n "$packages" ] || exit 0
[ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1 || exit 0
export DEBIAN_FRONTEND=noninteractive
{
    # Only the downloads have a limit: an installation that is cut short would leave the machine broken.
    # shellcheck disable=SC2086 # several words
    timeout 60 apt-get update &&
        timeout 240 apt-get install --yes --no-install-recommends --download-only $packages &&
        apt-get install --yes --no-install-recommends $packages
} </dev/null >/dev/null 2>&1 || true
