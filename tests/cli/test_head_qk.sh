#!/bin/sh
# A model with head_qk from its recipe to its files and back: copy_mask is written as the official code has it, of the
# run's ctx_len, and ignored when it is read; text is not generated.
set -eu

. "$(dirname "$0")/start.sh"
export RWKV_THREADS=2
cd "$work"

# recipe NAME MODEL CTX_LEN
recipe() {
    cat >"$1.yaml" <<END
device: cpu
model: { $2 }
data: { data_type: jsonl, data_file: $root/tests/cli/data.jsonl, tokenizer: byte, ctx_len: $3 }
train: { micro_bsz: 2, epoch_steps: 4, precision: fp32, lr_init: 1e-2, lr_final: 1e-2 }
save: { proj_dir: $1 }
END
}

recipe first "arch: x052, n_layer: 2, n_embd: 64, head_size: 32, head_qk: 8" 24
"$program" first.yaml >log 2>&1 || fail "did not train: $(tail -n 3 log)"
"$program" inspect first/rwkv-final.pth >text
grep -q "head_qk 8, copy_ctx 24" text || fail "inspect: $(sed -n 2p text)"
grep -q "^  copy_mask .*\[24, 24\]" text || fail "no copy_mask of 24: $(grep copy_mask text)"
grep -q "^  head_k.weight .*\[8, 64\]" text || fail "no head_k"

recipe second "load_model: first/rwkv-final.pth" 16
"$program" second.yaml >log 2>&1 || fail "did not train on: $(tail -n 3 log)"
"$program" inspect second/rwkv-final.pth | grep -q "^  copy_mask .*\[16, 16\]" || fail "no copy_mask of 16"

"$program" generate first/rwkv-final.pth --prompt a --tokens 2 >log 2>&1 && fail "generated text"
grep -q "first/rwkv-final.pth: this model has head_qk, whose logits need every token before" log || fail "$(cat log)"
"$program" second.yaml model.head_qk=4 --resume never >log 2>&1 && fail "another head_qk than the file's"
grep -q "model.head_qk: the recipe says 4, but .*first/rwkv-final.pth has 8; leave this key out" log || fail "$(cat log)"
