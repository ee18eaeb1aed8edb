#!/bin/sh
# The recipes of recipes/x*/ do run: each has a twin in tiny/ which includes it and overrides sizes and data, and takes
# three steps here. A recipe without a twin is an error.
set -eu

. "$(dirname "$0")/start.sh"
export RWKV_THREADS=2

# run TWIN FOLDER [more]
run() {
    twin=$root/tests/cli/tiny/$1 folder=$work/$2
    shift 2
    "$program" "$twin" device=cpu save.proj_dir="$folder" "$@" >"$work/log" 2>&1 || fail "$twin: $(tail -n 5 "$work/log")"
}

# rates FOLDER: the learning rates of its steps, on one line
rates() {
    sed -n 's/^{"event":"step",.*"lr":\([^,]*\),.*/\1/p' "$work/$1/metrics.jsonl" | awk '{ printf "%s%.4g", (NR > 1 ? " " : ""), $1 }'
}

# trained FOLDER RATES: it took as many steps as there are rates, and saved the weights
trained() {
    [ -s "$work/$1/rwkv-final.pth" ] || fail "$1: no rwkv-final.pth"
    [ "$(rates "$1")" = "$2" ] || fail "$1: learning rates $(rates "$1"), expected $2"
}

# checkpoint ARCH: two blocks of it, after one step, in $work/ARCH.pth
checkpoint() {
    cat >"$work/$1.yaml" <<YAML
device: cpu
model: { arch: $1, n_layer: 2, n_embd: 64 }
data: { data_type: binidx, data_file: $root/tests/cli/pair/tiny, ctx_len: 16 }
train: { micro_bsz: 1, epoch_steps: 1 }
save: { proj_dir: $1-first, dtype: bf16 }
YAML
    "$program" "$work/$1.yaml" --allow-read "$root" >"$work/log" 2>&1 || fail "$1: $(tail -n 5 "$work/log")"
    mv "$work/$1-first/rwkv-final.pth" "$work/$1.pth"
}

for recipe in "$root"/recipes/x*/*.yaml; do
    name=${recipe#"$root"/recipes/}
    grep -q "recipes/$name" "$root"/tests/cli/tiny/*.yaml || fail "recipes/$name has no twin in tests/cli/tiny"
done

for arch in x052 x060; do
    checkpoint "$arch"
    run "${arch}_finetune.yaml" "$arch" model.load_model="$work/$arch.pth"
    trained "$arch" "1e-05 1e-05 1e-05"
done

# The warmup of minipile.lua begins at 1 %; stopped and resumed, the order of the data and the weights are the same.
run x070_pretrain.yaml x070
trained x070 "6e-06 6.54e-05 0.0001248"
cat >"$work/stop.lua" <<'LUA'
return { on_train_batch_end = function(trainer) if trainer.step == 1 then trainer:stop("half") end end }
LUA
run x070_pretrain.yaml parts "hooks=[$root/recipes/x070/minipile.lua, $work/stop.lua]"
rm "$work/parts/rwkv-final.pth"
run x070_pretrain.yaml parts
trained parts "6e-06 6.54e-05 0.0001248"
cmp "$work/x070/rwkv-final.pth" "$work/parts/rwkv-final.pth" || fail "x070: the resumed run ends with other weights"
echo "recipes: 3 run"
