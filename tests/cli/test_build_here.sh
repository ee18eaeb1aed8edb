#!/bin/sh
# What the scripts build: with CUDA, for the cards that are there alone, where nvidia-smi lists a GPU and nvcc is new
# enough; else for the CPU; always with one line that says why, and never a failure because of CUDA. GPU, compiler and
# CMake are pretended.
set -eu
. "$(dirname "$0")/start.sh"
mkdir "$work/bin"
PATH=$work/bin:/usr/bin:/bin
unset CUDACXX RW_CMAKE_FLAGS

pretend() { # TOOL TEXT
    printf '#!/bin/sh\n%s\n' "$2" >"$work/bin/$1"
    chmod +x "$work/bin/$1"
}
gpu() { # NAME CAPABILITY...
    name=$1
    shift
    printf '%s\n' "$@" >"$work/caps"
    pretend nvidia-smi "[ \"\$1\" = -L ] && { echo 'GPU 0: $name (UUID: GPU-1)'; exit; }; cat '$work/caps'"
}
compiler() { pretend nvcc "echo 'Cuda compilation tools, release $1, V$1.0'"; } # VERSION
pretend cmake '[ "$1" = --version ] && { echo "cmake version 3.25.1"; exit; }
echo "$*" >>"$ASKED"; case "$*" in *"$BREAKS"*) exit 1 ;; esac'
export ASKED="$work/asked" BREAKS=nothing

# build WANTED LINE...: the words of cmake's first call, and what is said. rw_find_nvcc must not meet a real one.
build() {
    : >"$ASKED"
    wanted=$1
    shift
    (
        rw_root=$root
        . "$root/recipes/quickstart/setup.sh"
        rw_find_nvcc() { [ -x "$work/bin/nvcc" ] && echo nvcc; }
        rw_find_smi() { [ -x "$work/bin/nvidia-smi" ] && echo nvidia-smi; }
        rw_build_here "$work/b" rwkv-run
    ) >"$work/log" 2>&1 || fail "the build failed"
    printf '%s\n' "$@" | diff - "$work/log" >&2 || fail "something else is said"
    head -n 1 "$ASKED" | grep -qF -- "$wanted" || fail "cmake was asked: $(cat "$ASKED")"
}
cuda() { build "--preset cuda -B $work/b -DCMAKE_CUDA_ARCHITECTURES=$1" "building in $work/b with CUDA (some minutes the first time): $2, nvcc"; }
cpu() { build "--preset release -B $work/b" "building in $work/b for the CPU: $1"; }

cpu "no NVIDIA driver (nvidia-smi)"
compiler 13.0
pretend nvidia-smi 'echo "NVIDIA-SMI has failed because it could not communicate with the NVIDIA driver." ; exit 9'
cpu "nvidia-smi -L lists no GPU"
gpu "NVIDIA H100 80GB HBM3" 9.0
cuda 90a-real "NVIDIA H100 80GB HBM3"
gpu "NVIDIA GeForce RTX 4090" 8.9 12.0 8.9
cuda "120-real;89-real" "NVIDIA GeForce RTX 4090"
gpu "Tesla P100" 6.0
cpu "Tesla P100 stays unused: nvidia-smi names no compute capability of 7.5 or more"
gpu "Tesla T4" 'Field "compute_cap" is not a valid field to query.'
cpu "Tesla T4 stays unused: nvidia-smi names no compute capability of 7.5 or more"
gpu "Tesla T4" 7.5
cuda 75-real "Tesla T4"
compiler 11.8
cpu "Tesla T4 stays unused: nvcc is of CUDA 11, 12 is needed"
rm "$work/bin/nvcc"
cpu "Tesla T4 stays unused without nvcc (CUDA toolkit 12 or newer)"

compiler 12.4
BREAKS="--preset cuda"
build "--preset cuda" "building in $work/b with CUDA (some minutes the first time): Tesla T4, nvcc" \
    "with CUDA the build failed; building without it"
sed -n 2p "$ASKED" | grep -q -- "--preset release -B $work/b\$" || fail "cmake was asked: $(cat "$ASKED")"
echo "ten computers: each builds what it can"
