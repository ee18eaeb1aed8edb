#!/bin/sh
# train_type states from a base model to a file of states and back: what is saved, resumed to the bit, loaded over the
# base for training and for generation.
set -eu

. "$(dirname "$0")/start.sh"
export RWKV_THREADS=2
cd "$work"

# recipe NAME MODEL TRAIN
recipe() {
    cat >"$1.yaml" <<END
device: cpu
model: { $2 }
data: { data_type: jsonl, data_file: $root/tests/cli/data.jsonl, tokenizer: byte, ctx_len: 32 }
train: { micro_bsz: 2, epoch_steps: 6, precision: fp32, lr_init: 2e-2, lr_final: 1e-2, $3 }
save: { proj_dir: $1 }
END
}

# train RECIPE [more]
train() {
    "$program" "$@" >log 2>&1 || fail "$1 did not train: $(tail -n 3 log)"
}

recipe base "arch: x060, n_layer: 2, n_embd: 64, head_size: 32" "grad_cp: 0"
train base.yaml
recipe states "load_model: base/rwkv-final.pth" "train_type: states, weight_decay: 0.1, grad_cp: 1"
train states.yaml
"$program" inspect states/rwkv-final.pth >text
[ "$(grep -c '^  blocks.[01].att.time_state .*\[2, 32, 32\]' text)" = 2 ] || fail "$(cat text)"
[ "$(grep -c '^  [a-z]' text)" = 2 ] || fail "more than states: $(cat text)"
"$program" inspect states/*.safetensors | grep -q "emb.weight" && fail "the saved state holds the base model"

# stopped in the middle and resumed: the same bits
cat >stop.lua <<'LUA'
return { on_train_batch_end = function(trainer) if trainer.step == 2 then trainer:stop("half") end end }
LUA
train states.yaml save.proj_dir=halves "hooks=[stop.lua]"
[ -f halves/state-3.safetensors ] || fail "no state after 3 steps: $(ls halves)"
train states.yaml save.proj_dir=halves
cmp states/rwkv-final.pth halves/rwkv-final.pth || fail "the resumed run ends with other states"

# over the base
recipe further "load_model: base/rwkv-final.pth, load_state: states/rwkv-final.pth" "train_type: states"
train further.yaml
say() { "$program" generate base/rwkv-final.pth --prompt "The " --tokens 24 "$@" 2>&1; }
say >plain
say --state states/rwkv-final.pth >told || fail "$(cat told)"
cmp -s plain told && fail "the state changes nothing in generation"
say --state base/rwkv-final.pth >log && fail "a model as state"
grep -q "tensor 'blocks.0.att.time_state' is missing" log || fail "$(cat log)"
"$program" generate states/rwkv-final.pth --prompt a >log 2>&1 && fail "states as model"
grep -q "only initial states (time_state), not a model; name the model they belong to" log || fail "$(cat log)"

# a model that has no such part
recipe other "arch: x052, n_layer: 2, n_embd: 64, head_size: 32" "grad_cp: 0"
train other.yaml
"$program" states.yaml model.load_model=other/rwkv-final.pth save.proj_dir=none >log 2>&1 && fail "states of x052"
grep -q "train.train_type: x052 has no such part; leave this key out" log || fail "$(cat log)"
