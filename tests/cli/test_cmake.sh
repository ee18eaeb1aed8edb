#!/bin/sh
# The build asks for no more than CMake 3.22, that of Ubuntu 22.04, and says in one line when there is less; GCC 11, of
# the same, compiles the kernels, if it is here.
set -eu

root=$(cd "$(dirname "$0")/../.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

fail() {
    echo "FAIL: $*" >&2
    exit 1
}

# version 3 of the presets came with 3.21, 4 with 3.23
grep -q '"version": 3,' "$root/CMakePresets.json" || fail "CMakePresets.json: $(grep '"version"' "$root/CMakePresets.json")"
grep -q '"major": 3, "minor": 22,' "$root/CMakePresets.json" || fail "cmakeMinimumRequired is not 3.22"
grep -q '^cmake_minimum_required(VERSION 3.22)' "$root/CMakeLists.txt" || fail "cmake_minimum_required is not 3.22"

# build VERSION: what rw_build says with a cmake of that version, which does nothing
build() {
    printf '#!/bin/sh\n[ "$1" != --version ] || echo "cmake version %s"\n' "$1" >"$work/cmake"
    chmod +x "$work/cmake"
    (rw_root=$root; . "$root/recipes/quickstart/setup.sh"; PATH=$work:$PATH; rw_build "$work/build" release) 2>&1
}
export RWKV_LANG=en
[ "$(build 3.18.4 || true)" = "CMake 3.18 is too old, 3.22 is needed: pip install cmake" ] || fail "3.18: $(build 3.18.4)"
[ "$(RWKV_LANG=zh build 3.21.0 || true)" = "CMake 3.21 太旧，需要 3.22：pip install cmake" ] || fail "3.21 in Chinese"
for version in 3.22.1 3.31.0 4.0.2; do build $version || fail "$version is refused"; done

# what differs between compilers: one binary for several processors
if command -v gcc-11 >/dev/null; then
    gcc-11 -std=c11 -O2 -fopenmp -D_GNU_SOURCE -DRW_REAL_F32 -I "$root" -c "$root/kernels/cpu/adamw.c" -o "$work/adamw.o" ||
        fail "GCC 11 does not compile kernels/cpu/adamw.c"
else
    echo "skipped: no gcc-11 here"
fi
