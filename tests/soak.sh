#!/bin/sh
# The storms in full length: 200 checkpoints of each at random instants (or as many as the first argument says), a third as
# many restarts, storms, a pipeline and a daemon adopted and let go; and the real programs and servers with more
# rounds. Further arguments go to pytest; with DMTCP_TEST_ALL=1 and the packages of `tests/packages.sh all` large ones
# too. DMTCP_BUILD, DMTCP_TEST_SLOW and DMTCP_STORM_SEED as for all tests.
set -eu
cd "$(dirname "$0")/.."
count=200
case ${1:-} in
[0-9]*) count=$1; shift ;;
esac
DMTCP_STORM_COUNT=$count DMTCP_ROUNDS=${DMTCP_ROUNDS:-10} DMTCP_TEST_SLOW=${DMTCP_TEST_SLOW:-3} \
    exec /usr/bin/python3 -m pytest -v tests/e2e/test_storms.py tests/e2e/test_real_programs.py \
    tests/e2e/test_servers.py "$@"
