#!/bin/sh
# The scripts in Chinese, on their early ways out: what is missing, a CMake that is too old, a build that fails; and what
# the quickstart says of a run. Lines without a Chinese character are commands to copy, and the plot itself.
set -eu
. "$(dirname "$0")/start.sh"
export RWKV_LANG=zh

# A computer with nothing: only what the scripts themselves use.
mkdir "$work/bare"
for tool in sh awk cat cut date dirname env grep head id mkdir nproc rm sed tail tr; do
    ln -s "$(command -v $tool)" "$work/bare/$tool"
done

# run STATUS SCRIPT: in that computer, all lines Chinese but those that begin with four spaces
run() {
    expected=$1 status=0
    RW_BUILD_DIR=$work/build PATH=$work/bare sh "$root/$2" >"$work/log" 2>&1 || status=$?
    [ "$status" = "$expected" ] || fail "$2: status $status, expected $expected"
    only_chinese "$2"
}
only_chinese() {
    ! LC_ALL=C grep -v '^    ' "$work/log" | LC_ALL=C grep -vP '[\xe4-\xe9]' || fail "$1: not Chinese"
}
says() { grep -qF -- "$1" "$work/log" || fail "not said: $1"; }
pretend() { # TOOL TEXT: a program that says so and fails, but when it is asked for its version or for packages
    printf '#!/bin/sh\n%s\n' "$2" >"$work/bare/$1"
    chmod +x "$work/bare/$1"
}

for script in recipes/quickstart/run.sh tests/run.sh; do
    rm -f "$work/bare/dpkg-query" "$work/bare/cmake"
    run 1 $script
    says "缺少：build-essential cmake"
    says "在 Debian 12、Ubuntu 22.04 或 24.04 上"
    pretend dpkg-query 'echo installed'
    run 1 $script
    says "正在编译（用于 CPU）："
    says "缺少 cmake"
    says "编译失败"
    pretend cmake 'echo "cmake version 3.18.4"'
    run 1 $script
    says "CMake 3.18 太旧"
    pretend cmake '[ "$1" = --version ] && echo "cmake version 3.25.1"'
    run 1 $script
    says "编译失败"
done

# The plot, and the count of the answers.
printf '{"step":%s,"loss":2.5}\n{"step":%s,"val_loss":2.4}\n' 1 1 10 10 >"$work/metrics.jsonl"
LC_ALL=C awk -v columns=60 -f "$root/recipes/quickstart/plot.awk" "$work/metrics.jsonl" >"$work/plot"
grep -e '损失（nat/字节）' -e '第 10 步' -e '最后：训练 2.5000，验证 2.4000' "$work/plot" >"$work/log" || true
[ "$(wc -l <"$work/log")" = 3 ] || fail "the plot: $(cat "$work/plot")"
! LC_ALL=C grep '[a-z][a-z]' "$work/plot" | grep -v 'nat/' || fail "the plot: $(cat "$work/plot")"
pretend ask 'shift 2 && shift && printf "%s I do not know\n" "$1"'
RWKV_RUN=$work/bare/ask sh "$root/recipes/quickstart/score.sh" model 0 | tail -n 1 >"$work/log"
says "答对 0 个，共 20 个"
echo "two scripts on four early ways out, the plot, the score: Chinese"
