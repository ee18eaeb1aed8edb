#!/bin/sh
# Training states that were changed after they were written: of another version or format, with a flipped bit in a
# weight or a moment, with a checksum that is none. Each is refused, and what is wrong is named.
set -eu
. "$(dirname "$0")/common.sh"
command -v python3 >/dev/null || {
    echo "skipped: python3 changes the states"
    exit 77
}

cat >"$work/recipe.yaml" <<YAML
name: states
device: cpu
model: { arch: x060, n_layer: 2, n_embd: 32, head_size: 32 }
data: { data_type: jsonl, data_file: $root/tests/cli/data.jsonl, tokenizer: byte, ctx_len: 8 }
train: { micro_bsz: 1, epoch_steps: 4, epoch_count: 1, precision: fp32 }
save: { proj_dir: out, every: 2, keep: 0 }
YAML
# run STATUS ARGS...
run() {
    expected=$1 status=0
    shift
    rm -rf "$work/other"
    "$program" "$work/recipe.yaml" --allow-read "$root" save.proj_dir="$work/other" "$@" >"$work/stdout" 2>"$work/log" </dev/null || status=$?
    [ "$status" = "$expected" ] || fail "status $status, expected $expected: $*"
}
"$program" "$work/recipe.yaml" --allow-read "$root" save.proj_dir="$work/whole" save.every=2 --resume never >"$work/log" 2>&1 || fail "no run"
state=$(find "$work/whole" -name 'state-*' | sort | head -n 1)
run 0 --resume "$state"

# change WHAT: writes $work/bad.safetensors
change() {
    python3 - "$state" "$work/bad.safetensors" "$@" <<'PY'
import json, struct, sys
data = bytearray(open(sys.argv[1], "rb").read())
n = struct.unpack("<Q", data[:8])[0]
header = json.loads(data[8:8 + n])
what, args = sys.argv[3], sys.argv[4:]
if what == "metadata":
    if args[1] == "-":
        del header["__metadata__"][args[0]]
    else:
        header["__metadata__"][args[0]] = args[1]
    text = json.dumps(header, ensure_ascii=False).encode()
    text += b" " * (-(8 + len(text)) % 64)
    data[:8 + n] = struct.pack("<Q", len(text)) + text
else:
    begin, end = header[args[0]]["data_offsets"]
    at = 8 + n + {"first": begin, "middle": (begin + end) // 2, "last": end - 1}[args[1]]
    data[at] ^= 1 << int(args[2])
open(sys.argv[2], "wb").write(data)
PY
}

change metadata version 99
run 1 --resume "$work/bad.safetensors"
says "bad.safetensors: a training state of version '99', and this program knows version 1"
change metadata version -
run 1 --resume "$work/bad.safetensors"
says "a training state of version ''"
change metadata format "another program's state"
run 1 --resume "$work/bad.safetensors"
says "metadata 'format' is 'another program's state', expected 'rwkv-run training state'"
for text in 1234 '' "$(printf 'g%.0s' $(seq 8))"; do
    change metadata crc32 "$text"
    run 1 --resume "$work/bad.safetensors"
    says "crc32 is not 8 hexadecimal digits for each tensor"
done

for name in param.emb.weight m.blocks.0.att.key.weight v.head.weight param.blocks.1.ln1.bias; do
    for place in first middle last; do
        for bit in 0 7; do
            change flip $name $place $bit
            run 1 --resume "$work/bad.safetensors"
            says "bad.safetensors: tensor '$name' is damaged: its CRC32 is "
            [ ! -e "$work/other/rwkv-final.pth" ] || fail "trained on from a damaged state"
        done
    done
done

# a state of the time before checksums is taken as it is
change metadata crc32 -
run 0 --resume "$work/bad.safetensors"
cmp "$work/whole/rwkv-final.pth" "$work/other/rwkv-final.pth" || fail "ends with other weights"
echo "states: each change was found"
