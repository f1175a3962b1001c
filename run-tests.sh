#!/bin/sh
# Install what is missing, build, and run all tests:
#
#   ./run-tests.sh [--sanitize] [--quick] [--all] [pytest arguments…]
#
#   --sanitize  another build, with AddressSanitizer and UBSan in all programs that run on the host, and the unit
#               tests and a choice of the whole runs with it
#   --quick     only the unit tests and a choice of the whole runs
#   --all       also servers and programs whose packages are large: PostgreSQL, an X server, MPI, LAMMPS
#
# The last line is the sum of all test runners: "N passed, N failed, N skipped".
set -eu
cd "$(dirname "$0")"

sanitize="" quick="" packages=test
while [ $# -gt 0 ]; do
    case $1 in
    --sanitize) sanitize=yes ;;
    --quick) quick=yes ;;
    --all)
        packages=all
        export DMTCP_TEST_ALL=1
        ;;
    -h | --help) sed -n '2,/^set/s/^# \{0,1\}//p' "$0" | sed '$d'; exit 0 ;;
    *) break ;;
    esac
    shift
done

# One program of each family, the storm of processes, and whatever tests the commands rather than programs.
choice="count or mem_anon or mem_memfd or mem_deleted or thr_many or thr_block or thr_timed or sig_timers or sig_pending
 or tree_ids or tree_zombie or file_basic or file_pipe or file_epoll or file_pty or storm_fork or storm_files
 or bash or vim or test_coordinator or test_plugins"
choice="($(echo "$choice" | tr -d '\n')) and not test_control and not test_can_fail"

sh tests/packages.sh $packages

build=build
options=-Dwerror=true
if [ -n "$sanitize" ]; then
    build="build-sanitize"
    options="$options -Db_sanitize=address,undefined -Db_lundef=false"
    export ASAN_OPTIONS="${ASAN_OPTIONS:-detect_leaks=1:abort_on_error=0:exitcode=66}"
    export UBSAN_OPTIONS="${UBSAN_OPTIONS:-halt_on_error=1:print_stacktrace=1}"
    export DMTCP_TEST_SLOW="${DMTCP_TEST_SLOW:-3}" DMTCP_STORM_COUNT="${DMTCP_STORM_COUNT:-3}" DMTCP_ROUNDS="${DMTCP_ROUNDS:-2}"
fi

if [ ! -e $build/build.ninja ]; then
    # shellcheck disable=SC2086
    meson setup $build $options >$build.log 2>&1 || { cat $build.log; exit 1; }
    rm -f $build.log
fi
ninja -C $build

log=$(mktemp -d)
trap 'rm -rf "$log"' EXIT

# A pipe would hide the exit status, so the output goes through a file.
run() {
    name=$1
    shift
    { "$@" 2>&1; echo $? >"$log/$name.status"; } | tee "$log/$name"
}

run meson meson test -C $build --no-rebuild --print-errorlogs

set -- -p no:cacheprovider "$@"
if /usr/bin/python3 -c "import xdist" 2>/dev/null; then
    # Most tests wait most of the time.
    set -- -n "${DMTCP_TEST_JOBS:-$(($(nproc) + 1))}" --dist loadgroup "$@"
fi
if [ -n "$sanitize$quick" ]; then
    set -- -k "$choice" "$@"
fi
DMTCP_BUILD=$PWD/$build run pytest /usr/bin/python3 -m pytest -q "$@"

# The number in front of a word in pytest's last line, or behind it in the summary of meson.
of_pytest() {
    tail -n 1 "$log/pytest" | grep -oE "[0-9]+ $1" | grep -oE '^[0-9]+' || echo 0
}
of_meson() {
    sed -n "s/^$1: *\([0-9]*\).*/\1/p" "$log/meson" | grep . || echo 0
}
passed=$(($(of_pytest passed) + $(of_meson Ok)))
failed=$(($(of_pytest failed) + $(of_pytest 'errors?') + $(of_meson Fail) + $(of_meson Timeout)))
skipped=$(($(of_pytest skipped) + $(of_meson Skipped)))
if [ $failed = 0 ] && [ "$(cat "$log/meson.status")$(cat "$log/pytest.status")" != 00 ]; then
    failed=1 # a runner that fell over without counting
fi

echo
echo "== closing lines =="
grep -E '^(Ok|Expected Fail|Fail|Unexpected Pass|Skipped|Timeout):' "$log/meson" || true
tail -n 1 "$log/pytest"
echo "$passed passed, $failed failed, $skipped skipped"
[ $failed = 0 ]
