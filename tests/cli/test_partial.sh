#!/bin/sh
# model.load_partial: a model of two blocks becomes one of three; the log names each parameter that the file lacks and
# each tensor that the smaller model has not. Without the key both are refused.
set -eu

. "$(dirname "$0")/start.sh"
export RWKV_THREADS=2
cd "$work"

# recipe NAME MODEL
recipe() {
    cat >"$1.yaml" <<END
device: cpu
model: { $2 }
data: { data_type: jsonl, data_file: $root/tests/cli/data.jsonl, tokenizer: byte, ctx_len: 16 }
train: { micro_bsz: 2, epoch_steps: 2, precision: fp32 }
save: { proj_dir: $1 }
END
}

recipe two "arch: x052, n_layer: 2, n_embd: 64, head_size: 32"
"$program" two.yaml >log 2>&1 || fail "$(tail -n 3 log)"
recipe three "load_model: two/rwkv-final.pth, n_layer: 3"
"$program" three.yaml >log 2>&1 && fail "three blocks from two"
grep -q "model.n_layer: the recipe says 3, but .*two/rwkv-final.pth has 2; leave this key out" log || fail "$(cat log)"
"$program" three.yaml model.load_partial=true >log 2>&1 || fail "$(tail -n 3 log)"
[ "$(grep -c "two/rwkv-final.pth lacks 'blocks.2\..*': initial values" log)" = 22 ] || fail "$(grep lacks log)"
[ "$(grep -c "lacks" log)" = 22 ] || fail "$(grep lacks log)"
"$program" inspect three/rwkv-final.pth | grep -q "n_layer 3" || fail "not three blocks"

recipe less "load_model: three/rwkv-final.pth, n_layer: 2, load_partial: true"
"$program" less.yaml >log 2>&1 || fail "$(tail -n 3 log)"
[ "$(grep -c "three/rwkv-final.pth has 'blocks.2\..*', which this model has not: ignored" log)" = 22 ] ||
    fail "$(grep ignored log)"
