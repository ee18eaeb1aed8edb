# Shell functions shared by recipes/quickstart/run.sh, tests/run.sh and .ci/run. To be sourced by a POSIX sh
# with rw_root set to the root of the source tree.
#
#   rw_install_packages GROUP...     see packages.txt; needs no rights when all is there already
#   rw_build DIR PRESET [TARGET...]  configures and builds; quick when nothing changed
#   rw_build_here DIR [TARGET...]    the same, with CUDA where there are a GPU and a compiler for it; says which, and why
#   $RW_CMAKE_FLAGS                  more arguments for cmake

rw_say() { printf '%s\n' "$*"; }
# rw_say_in ENGLISH CHINESE: the one in the user's language
rw_say_in() { case ${RWKV_LANG:-${LC_ALL:-${LC_MESSAGES:-${LANG:-}}}} in zh*) rw_say "$2" ;; *) rw_say "$1" ;; esac; }
rw_die() { printf '%s\n' "$*" >&2; exit 1; }

# -- packages ------------------------------------------------------------------------------------------

# rw_list_packages GROUP...: lines "package probe"
rw_list_packages() {
    for rw_group in "$@"; do
        awk -v g="$rw_group" '!/^#/ && $1 == g { print $2, $3 }' "$rw_root/recipes/quickstart/packages.txt"
    done
}

# rw_probe PROBE: is it there, whoever installed it?
rw_probe() {
    case $1 in
    cmd:*) command -v "${1#cmd:}" >/dev/null 2>&1 ;;
    pc:*) pkg-config --exists "${1#pc:}" 2>/dev/null ;;
    lib:*) { ldconfig -p || /sbin/ldconfig -p; } 2>/dev/null | grep -q "${1#lib:}" ;;
    py:*) /usr/bin/python3 -c "import ${1#py:}" >/dev/null 2>&1 ;;
    *) return 1 ;;
    esac
}

rw_installed() { dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null | grep -qx installed; }

# rw_missing_packages GROUP...: names that neither dpkg nor, where there is no dpkg, the probe knows
rw_missing_packages() {
    rw_list_packages "$@" | while read -r rw_package rw_how; do
        if command -v dpkg-query >/dev/null 2>&1; then
            rw_installed "$rw_package" || echo "$rw_package"
        else
            rw_probe "$rw_how" || echo "$rw_package"
        fi
    done
}

# rw_apt PACKAGE...: as root, or with sudo
rw_apt() {
    rw_sudo=
    [ "$(id -u)" = 0 ] || rw_sudo='sudo env'
    rw_install="${rw_sudo:-env} DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends"
    $rw_install "$@" >/dev/null 2>&1 && return 0
    ${rw_sudo:-env} apt-get update -q >/dev/null 2>&1 # the lists are old or were never fetched
    $rw_install "$@" >/dev/null
}

# Without rights: what dpkg does not know may still be there, built by hand.
rw_unprobed() {
    rw_list_packages "$@" | while read -r rw_package rw_how; do
        rw_installed "$rw_package" || rw_probe "$rw_how" || echo "$rw_package"
    done
}

rw_may_install() {
    command -v apt-get >/dev/null 2>&1 || return 1
    [ "$(id -u)" = 0 ] && return 0
    command -v sudo >/dev/null 2>&1 && { sudo -n true 2>/dev/null || [ -t 0 ]; }
}

rw_install_packages() {
    rw_missing=$(rw_missing_packages "$@" | tr '\n' ' ')
    [ -n "$rw_missing" ] || return 0
    if rw_may_install; then
        rw_say_in "installing: $rw_missing" "正在安装：$rw_missing"
        rw_apt $rw_missing && return 0
        rw_say_in "apt-get could not install all of: $rw_missing" "apt-get 未能全部安装：$rw_missing"
        return 1
    fi
    rw_missing=$(rw_unprobed "$@" | tr '\n' ' ')
    [ -n "$rw_missing" ] || return 0
    rw_say_in "missing: $rw_missing" "缺少：$rw_missing"
    rw_say_in "On Debian 12, Ubuntu 22.04 or 24.04, with the right to install:" "在 Debian 12、Ubuntu 22.04 或 24.04 上（需要安装权限）："
    rw_say "    apt-get install $rw_missing"
    rw_say_in "Elsewhere, install the same by other means: a C11 compiler with OpenMP, CMake 3.22, Ninja, pkg-config, and
the development files of LuaJIT 2.1, libyaml, jansson and zlib; OpenBLAS (built with OpenMP) as a shared
library; for the tests, cmocka and Python 3." \
        "其他系统请自行安装：带 OpenMP 的 C11 编译器、CMake 3.22、Ninja、pkg-config，LuaJIT 2.1、libyaml、jansson 和 zlib
的开发文件，OpenBLAS 动态库（以 OpenMP 编译）；运行测试还需要 cmocka 和 Python 3。"
    return 1
}

# -- building ------------------------------------------------------------------------------------------

rw_jobs() { nproc 2>/dev/null || echo 2; }

# A build folder that was configured for another source tree (a moved or copied clone) is emptied.
rw_drop_foreign_cache() {
    [ -f "$1/CMakeCache.txt" ] || return 0
    grep -qxF "CMAKE_HOME_DIRECTORY:INTERNAL=$(cd "$rw_root" && pwd -P)" "$1/CMakeCache.txt" || rm -rf "$1"
}

# rw_quietly LOG COMMAND...: shows the output on a terminal, else only when it fails
rw_quietly() {
    rw_log=$1
    shift
    if [ -t 1 ]; then "$@"; else
        "$@" >"$rw_log" 2>&1 || { grep -v "^\[" "$rw_log" | tail -n 60 >&2; return 1; }
    fi
}

# CMakeLists.txt says 3.22, but an older one stumbles over the presets before it reads that.
rw_check_cmake() {
    rw_version=$(cmake --version 2>/dev/null | sed -n 's/^cmake version \([0-9]*\)\.\([0-9]*\).*/\1 \2/p')
    [ -n "$rw_version" ] || { rw_say_in "cmake is missing" "缺少 cmake" >&2; return 1; }
    [ "${rw_version% *}" -gt 3 ] || [ "${rw_version#* }" -ge 22 ] || {
        rw_found=$(printf '%s.%s' $rw_version)
        rw_say_in "CMake $rw_found is too old, 3.22 is needed: pip install cmake" \
            "CMake $rw_found 太旧，需要 3.22：pip install cmake" >&2
        return 1
    }
}

rw_build() {
    rw_dir=$1 rw_preset=$2
    shift 2
    rw_check_cmake || return 1
    rw_drop_foreign_cache "$rw_dir"
    mkdir -p "$rw_dir"
    # shellcheck disable=SC2086
    (cd "$rw_root" && rw_quietly "$rw_dir/configure.log" cmake --preset "$rw_preset" -B "$rw_dir" ${RW_CMAKE_FLAGS:-}) ||
        return 1
    rw_targets=
    [ $# = 0 ] || rw_targets="--target $*"
    # shellcheck disable=SC2086
    rw_quietly "$rw_dir/build.log" cmake --build "$rw_dir" --parallel "$(rw_jobs)" $rw_targets
}

# -- with CUDA or without --------------------------------------------------------------------------------

# rw_find_smi: nvidia-smi, which in WSL2 is not in PATH
rw_find_smi() { command -v nvidia-smi || { [ -x /usr/lib/wsl/lib/nvidia-smi ] && echo /usr/lib/wsl/lib/nvidia-smi; }; }

# rw_find_nvcc: the CUDA compiler that CMake will take
rw_find_nvcc() {
    for rw_try in "${CUDACXX:-}" nvcc /usr/local/cuda/bin/nvcc; do
        [ -n "$rw_try" ] && command -v "$rw_try" && return
    done
    return 1
}

rw_nvcc_major() { "$rw_nvcc" --version 2>/dev/null | sed -n 's/.*release \([0-9]*\)\..*/\1/p'; }

# rw_gpu_archs: what CMAKE_CUDA_ARCHITECTURES is for the GPUs here, "90a-real"; nothing where one is too old or unknown.
# A broken driver may hang.
rw_gpu_archs() {
    timeout 30 "$rw_smi" --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | sort -u | awk -F. '
        !/^[0-9]+\.[0-9]+ *$/ || $1 * 10 + $2 < 75 { bad = 1 }
        { list = list (NR > 1 ? ";" : "") $1 + 0 $2 + 0 ($1 == 9 && $2 == 0 ? "a" : "") "-real" }
        END { if (!bad) print list }'
}

# rw_choose_cuda: sets rw_archs, "" for the CPU alone, and rw_why and rw_why_zh, the reason
rw_choose_cuda() {
    rw_archs=
    rw_smi=$(rw_find_smi) || {
        rw_why="no NVIDIA driver (nvidia-smi)" rw_why_zh="没有 NVIDIA 驱动（nvidia-smi）"
        return
    }
    rw_gpu=$(timeout 30 "$rw_smi" -L 2>/dev/null | sed -n '/^GPU [0-9]/{s/^GPU [0-9]*: //; s/ (UUID.*//; p; q}')
    [ -n "$rw_gpu" ] || {
        rw_why="nvidia-smi -L lists no GPU" rw_why_zh="nvidia-smi -L 没有列出 GPU"
        return
    }
    rw_nvcc=$(rw_find_nvcc) || {
        rw_why="$rw_gpu stays unused without nvcc (CUDA toolkit 12 or newer)"
        rw_why_zh="没有 nvcc（CUDA toolkit 12 或更新），$rw_gpu 用不上"
        return
    }
    rw_major=$(rw_nvcc_major)
    [ "${rw_major:-0}" -ge 12 ] || {
        rw_why="$rw_gpu stays unused: $rw_nvcc is of CUDA ${rw_major:-?}, 12 is needed"
        rw_why_zh="$rw_gpu 用不上：$rw_nvcc 属于 CUDA ${rw_major:-?}，需要 12"
        return
    }
    rw_archs=$(rw_gpu_archs)
    [ -n "$rw_archs" ] || {
        rw_why="$rw_gpu stays unused: nvidia-smi names no compute capability of 7.5 or more"
        rw_why_zh="$rw_gpu 用不上：nvidia-smi 没有给出 7.5 或更高的计算能力"
        return
    }
    rw_why="$rw_gpu, $rw_nvcc" rw_why_zh=$rw_why
}

# rw_build_here DIR [TARGET...]
rw_build_here() {
    rw_where=$1
    shift
    rw_choose_cuda
    if [ -n "$rw_archs" ]; then
        rw_say_in "building in $rw_where with CUDA (some minutes the first time): $rw_why" \
            "正在编译（使用 CUDA，第一次需要几分钟）：$rw_where；$rw_why_zh"
        rw_flags=${RW_CMAKE_FLAGS:-}
        RW_CMAKE_FLAGS="-DCMAKE_CUDA_ARCHITECTURES=$rw_archs $rw_flags"
        export CUDACXX="$rw_nvcc"
        rw_build "$rw_where" cuda "$@" && return
        RW_CMAKE_FLAGS=$rw_flags
        rw_say_in "with CUDA the build failed; building without it" "使用 CUDA 编译失败；改为不使用 CUDA 编译"
    else
        rw_say_in "building in $rw_where for the CPU: $rw_why" "正在编译（用于 CPU）：$rw_where；$rw_why_zh"
    fi
    rw_build "$rw_where" release "$@"
}
