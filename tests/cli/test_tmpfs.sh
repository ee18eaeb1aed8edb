#!/bin/sh
# A disk that is really full: a tmpfs with room for one save and a half. The error names the file, the older save can be
# read, and with room again the run resumes to the same bits.
set -eu

root=$(cd "$(dirname "$0")/../.." && pwd)
program=${RWKV_RUN:?RWKV_RUN is the program to test}
[ "$(id -u)" = 0 ] || {
    echo "skipped: mounting a tmpfs needs root"
    exit 77
}
work=$(mktemp -d)
cd "$work" # a recipe reads anywhere from its working directory only
trap 'umount "$work/disk" 2>/dev/null; rm -rf "$work"' EXIT
mkdir "$work/disk"
mount -t tmpfs -o size=1m none "$work/disk" 2>/dev/null || {
    echo "skipped: no tmpfs can be mounted here"
    exit 77
}
export RWKV_LANG=en RWKV_THREADS=1

cat >"$work/recipe.yaml" <<YAML
name: full
device: cpu
model: { arch: x060, n_layer: 2, n_embd: 32, head_size: 32 }
data: { data_type: jsonl, data_file: $root/tests/cli/data.jsonl, tokenizer: byte, ctx_len: 8 }
train: { micro_bsz: 1, epoch_steps: 3, epoch_count: 2, precision: fp32 }
save: { proj_dir: out, epoch_save: 1, every: 1 }
YAML

fail() {
    echo "FAIL: $*" >&2
    cat "$work/log" >&2
    ls -l "$work/disk" "$work/disk/out" >&2
    exit 1
}
status=0
run() {
    status=0
    "$program" "$work/recipe.yaml" save.proj_dir="$1" >"$work/stdout" 2>"$work/log" || status=$?
}
run "$work/whole"
[ "$status" = 0 ] || fail "status $status without a limit"
state=$(stat -c %s "$work/whole/state-6.safetensors")
weights=$(stat -c %s "$work/whole/rwkv-final.pth")

# the init file, one save, half of the next
mount -o remount,size=$((2 * weights + state + (weights + state) / 2)) "$work/disk"
run "$work/disk/out"
[ "$status" = 1 ] || fail "status $status on a full disk, expected 1"
grep -q "$work/disk/out/.*No space left on device" "$work/log" || fail "the error does not name the file"
[ -z "$(find "$work/disk" -name '*.tmp-*')" ] || fail "a temporary file takes the last room"
newest=$(find "$work/disk/out" -name 'state-*' | sort -V | tail -n 1)
[ -n "$newest" ] || fail "no older save is there"
"$program" inspect "$newest" >/dev/null || fail "$newest is not whole"
"$program" inspect "$work/disk/out/rwkv-init.pth" >/dev/null || fail "rwkv-init.pth is not whole"

mount -o remount,size=64m "$work/disk"
run "$work/disk/out"
[ "$status" = 0 ] || fail "status $status with room again"
grep -qF "resuming from $newest" "$work/log" || fail "does not resume from $newest"
cmp "$work/whole/rwkv-final.pth" "$work/disk/out/rwkv-final.pth" || fail "ends with other weights"

# no room at all: said at once, for the folder or the first file
mkdir "$work/none"
mount -t tmpfs -o size=4k none "$work/none"
run "$work/none/out"
umount "$work/none"
[ "$status" = 1 ] || fail "status $status without any room"
grep -q "No space left on device" "$work/log" || fail "the error does not say why"
echo "tmpfs: a full disk is named, older saves stay, the run resumes"
