#!/bin/sh
# The storms in full length: 200 checkpoints of each (or as many as the first argument says), and the real
# programs and servers with as many more rounds. Further arguments go to pytest; with DMTCP_TEST_ALL=1 and the
# packages of `tests/packages.sh all` large ones too.
set -eu
cd "$(dirname "$0")/.."
count=${1:-200}
[ $# -eq 0 ] || shift
DMTCP_STORM_COUNT=$count DMTCP_ROUNDS=${DMTCP_ROUNDS:-10} \
    exec /usr/bin/python3 -m pytest tests/e2e/test_storms.py tests/e2e/test_real_programs.py \
    tests/e2e/test_servers.py "$@"
