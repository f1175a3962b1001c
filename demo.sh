#!/bin/sh
# The main job, shown on a Python program with threads and child processes: launch it, checkpoint it, kill
# everything, restart it from the images, and see that its result is right. Installs what is missing and builds.
set -eu
cd "$(dirname "$0")"
sh tests/packages.sh build
if [ ! -e build/build.ninja ]; then
    echo "Building…"
    meson setup build -Dwerror=true >build.log 2>&1 || { cat build.log; exit 1; }
fi
ninja -C build >build.log 2>&1 || { cat build.log; exit 1; }
rm -f build.log
exec python3 examples/demo.py build
