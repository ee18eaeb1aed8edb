#!/bin/sh
# sh tests/run.sh [--all]: installs what is missing, builds, runs the tests, and ends with one line
# "N passed, N failed, N skipped". --all takes the tests with the label slow along. Built with CUDA, which it is where
# a GPU and nvcc are, those with the label gpu belong to it.
#   $RW_BUILD_DIR    another build folder than build/release     $RW_CMAKE_FLAGS   more arguments for cmake
set -eu
rw_root=$(cd "$(dirname "$0")/.." && pwd)
. "$rw_root/recipes/quickstart/setup.sh"
build=${RW_BUILD_DIR:-$rw_root/build/release}

rw_install_packages build test || exit 1
rw_install_packages interop || rw_say_in "the tests against PyTorch are left out" "略过与 PyTorch 对照的测试"
rw_build_here "$build" || rw_die "$(rw_say_in "the build failed" "编译失败")"

report=$build/tests.xml
select='-LE slow'
[ "${1:-}" != --all ] || select=
rm -f "$report"
status=0
# shellcheck disable=SC2086
ctest --test-dir "$build" $select -j "$(rw_jobs)" --output-on-failure --output-junit "$report" \
    --test-output-size-passed 1000000 --test-output-size-failed 1000000 || status=$?
[ -f "$report" ] || rw_die "$(rw_say_in "no test was run" "没有运行任何测试")"
awk -f "$rw_root/tests/count.awk" "$report" || status=1
exit "$status"
