# Sourced: has Debian packages installed whose programs are missing, where that is possible; else tests that need them
# are skipped and say so. Usage: fetch PROGRAM [PACKAGE]
fetch() {
    command -v "$1" >/dev/null 2>&1 && return 0
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then
        echo "$1 is not here, and cannot be installed: some tests are skipped" >&2
        return 0
    fi
    [ -n "${apt_is_fresh:-}" ] || apt-get update -qq >&2 || true
    apt_is_fresh=1
    # No service of a package may start by itself.
    printf '#!/bin/sh\nexit 101\n' >/tmp/policy-rc.d.$$ && chmod +x /tmp/policy-rc.d.$$
    [ -e /usr/sbin/policy-rc.d ] || { mv /tmp/policy-rc.d.$$ /usr/sbin/policy-rc.d && own_policy=1; }
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${2:-$1}" >/dev/null ||
        echo "${2:-$1} could not be installed: some tests are skipped" >&2
    [ -z "${own_policy:-}" ] || rm -f /usr/sbin/policy-rc.d
    rm -f /tmp/policy-rc.d.$$
    own_policy=
}
