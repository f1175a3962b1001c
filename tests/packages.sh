#!/bin/sh
# Install from apt what is needed and missing: `tests/packages.sh build` to build, `… test` to run the tests too,
# `… all` to run also those of large programs (run-tests.sh --all).
# When nothing is missing it does nothing, and needs no network.
set -eu

build="gcc libc6-dev meson ninja-build pkg-config protobuf-c-compiler libprotobuf-c-dev liblz4-dev libxxhash-dev
    libsodium-dev libjansson-dev libcmocka-dev libunwind-dev libcap-dev python3"
tests="python3-pytest python3-pytest-xdist procps bash perl make tar xz-utils coreutils sqlite3 vim nodejs golang-go
    musl-tools openjdk-17-jdk-headless man-db groff gdb strace tmux redis-server redis-tools memcached nginx curl
    openssh-server openssh-client iproute2"
all="postgresql xvfb xterm x11-apps openmpi-bin libopenmpi-dev mpich libmpich-dev lammps"

case ${1:-build} in
build) wanted=$build ;;
test) wanted="$build $tests" ;;
all) wanted="$build $tests $all" ;;
*) echo "usage: $0 build|test|all" >&2; exit 2 ;;
esac

if ! command -v dpkg-query >/dev/null; then
    echo "$0: not a Debian system; needed are (by their Debian names):" $wanted >&2
    exit 0
fi
missing=
for package in $wanted; do
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)" = installed ] ||
        missing="$missing $package"
done
[ -n "$missing" ] || exit 0
if [ "$(id -u)" != 0 ]; then
    echo "$0: please install as root: apt-get install$missing" >&2
    exit 1
fi
echo "Installing$missing"
export DEBIAN_FRONTEND=noninteractive

# The servers are wanted, but not as services.
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
    trap 'rm -f $policy' EXIT
    printf '#!/bin/sh\nexit 101\n' >$policy
    chmod 755 $policy
fi
install() {
    # shellcheck disable=SC2086
    apt-get install -y -qq --no-install-recommends $missing >/tmp/dmtcp-apt.$$ 2>&1
}
install || { apt-get update -qq && install; } || { cat /tmp/dmtcp-apt.$$ >&2; rm -f /tmp/dmtcp-apt.$$; exit 1; }
rm -f /tmp/dmtcp-apt.$$
