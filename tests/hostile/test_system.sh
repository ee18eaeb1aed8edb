#!/bin/sh
# A system that gives less than a program expects: closed descriptors, a full standard output, a limit on the size of
# files, on the address space, on the space for temporary files. One line says so, soon, and nothing is left behind.
set -eu
. "$(dirname "$0")/common.sh"

cat >"$work/recipe.yaml" <<YAML
name: system
device: cpu
model: { arch: x060, n_layer: 2, n_embd: 32, head_size: 32 }
data: { data_type: jsonl, data_file: $root/tests/cli/data.jsonl, tokenizer: byte, ctx_len: 8 }
train: { micro_bsz: 1, epoch_steps: 2, epoch_count: 1, precision: fp32 }
save: { proj_dir: out }
YAML
# left NAME: no temporary file
nothing_left() { [ -z "$(find "$work" -name '*.tmp-*')" ] || fail "left behind: $(find "$work" -name '*.tmp-*')"; }

# -- closed descriptors: their numbers are given to no file of ours ------------------------------------------
train() { timeout 120 "$program" "$work/recipe.yaml" --allow-read "$root" save.proj_dir="$work/$1"; }
only_json() {
    ! grep -v '^{.*}$' "$1/metrics.jsonl" || fail "$1/metrics.jsonl has lines that are not its own"
    [ "$(grep -c '"event":"step"' "$1/metrics.jsonl")" = 2 ] || fail "$1/metrics.jsonl lacks steps"
}
train no2 >"$work/log" 2>&- || fail "without 2: status $?"
only_json "$work/no2"
train no012 <&- >&- 2>&- || fail "without 0, 1, 2: status $?"
only_json "$work/no012"
train no0 <&- >"$work/log" 2>&1 || fail "without 0: status $?"
only_json "$work/no0"
for name in no2 no012; do cmp "$work/no0/rwkv-final.pth" "$work/$name/rwkv-final.pth" || fail "$name ends with other weights"; done
grep -v '^NEW RUN\|^system$\|^[0-9]* [0-9.]* ' "$work/no012/train_log.txt" && fail "train_log.txt has lines that are not its own"

# -- a standard output that cannot be written ------------------------------------------------------------------
[ -w /dev/full ] || fail "there is no /dev/full here"
for what in --keys --schema --help --version "inspect $work/no0/rwkv-final.pth" "$work/recipe.yaml --dry-run --allow-read $root" \
    "generate $work/no0/rwkv-final.pth --prompt ab --tokens 3 --tokenizer byte"; do
    status=0
    # shellcheck disable=SC2086
    "$program" $what >/dev/full 2>"$work/log" || status=$?
    [ "$status" = 1 ] || fail "$what >/dev/full: status $status, expected 1"
    says "cannot write to standard output: No space left on device"
    # shellcheck disable=SC2086
    "$program" $what >&- 2>"$work/log" && fail "$what >&-: status 0"
done

# -- a limit on the size of files: 16 KiB, in the middle of a save -----------------------------------------------
status=0
(
    ulimit -f 32
    train small
) >"$work/stdout" 2>"$work/log" || status=$?
[ "$status" = 1 ] || fail "ulimit -f: status $status, expected 1"
says "rwkv-init.pth: File too large"
nothing_left

# -- a limit on the address space ----------------------------------------------------------------------------------
# Where a sanitizer takes terabytes for itself there is nothing to see.
if (ulimit -v 4000000 && "$program" --version >/dev/null 2>&1); then
    for threads in 1 4; do
        for kib in 20000 40000 60000 80000 100000 150000 200000 250000 300000 330000 400000 600000 800000 1000000; do
            status=0
            rm -rf "$work/address"
            (
                ulimit -v $kib
                RWKV_THREADS=$threads timeout 120 "$program" "$work/recipe.yaml" --allow-read "$root" save.proj_dir="$work/address"
            ) >"$work/stdout" 2>"$work/log" || status=$?
            case $status in
            0) continue ;;
            1) [ "$(grep -c . "$work/log")" -le 30 ] || fail "ulimit -v $kib: more than a line" ;;
            127) grep -q 'error while loading shared libraries' "$work/log" || fail "ulimit -v $kib: status 127" ;;
            *) fail "ulimit -v $kib, $threads threads: status $status" ;;
            esac
            nothing_left
        done
    done
    (ulimit -v 250000 && "$program" "$work/recipe.yaml" --allow-read "$root" --dry-run) >"$work/stdout" 2>"$work/log" && fail "ulimit -v 250000"
    says "of address space for 1 threads, and ulimit -v allows 244 MiB for the whole program"
fi

# -- no space for the tokens of a text: a sparse file as large as all that is free ------------------------------------
# no_space FOLDER SIZE: said before anything is written there. A program that does not ask first stops at 128 MiB.
no_space() {
    truncate -s "$2" "$work/sparse.txt"
    status=0
    (
        ulimit -f 262144
        TMPDIR=$1 timeout 120 "$program" "$work/recipe.yaml" --allow-read "$root" data.data_type=utf-8 \
            data.data_file="$work/sparse.txt" save.proj_dir="$work/sparse"
    ) >"$work/stdout" 2>"$work/log" || status=$?
    [ "$status" = 1 ] || fail "no space for the tokens: status $status, expected 1"
    says "$work/sparse.txt: its tokens need"
    says "in a temporary file in $1, which has"
}
mkdir "$work/tmp"
no_space "$work/tmp" $(($(df -Pk "$work/tmp" | awk 'NR == 2 { print $4 }') * 1024))
if [ "$(id -u)" = 0 ] && mount -t tmpfs -o size=64m none "$work/tmp" 2>/dev/null; then
    trap 'umount "$work/tmp"; rm -rf "$work"' EXIT
    no_space "$work/tmp" 1G
    says "its tokens need 2.00 GiB in a temporary file in $work/tmp, which has 64.0 MiB free"
fi
echo "system: each limit was an error of one line"
