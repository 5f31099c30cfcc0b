#!/bin/sh
# What tests need besides Python packages: systemd-analyze, openssl for certificates, a browser for the pages,
# Prometheus and its Pushgateway for the rules and the metrics. Installs them where that is possible
# (root, apt-get) and says nothing; the tests themselves decide what a missing tool means.
set -eu
packages=
command -v systemd-analyze >/dev/null 2>&1 || packages="$packages systemd"
command -v openssl >/dev/null 2>&1 || packages="$packages openssl"
command -v chromium >/dev/null 2>&1 || packages="$packages chromium fonts-dejavu-core"
command -v prometheus >/dev/null 2>&1 || packages="$packages prometheus"
command -v prometheus-pushgateway >/dev/null 2>&1 || packages="$packages prometheus-pushgateway"
[ -n "$packages" ] || exit 0
[ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1 || exit 0
export DEBIAN_FRONTEND=noninteractive
{
    apt-get update
    # shellcheck disable=SC2086 # several words
    apt-get install --yes --no-install-recommends $packages
} >/dev/null 2>&1 || true
