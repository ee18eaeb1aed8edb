#!/bin/sh
# label: slow
# 50 times kill -9 at a random moment of a run that saves after every step. Each time a whole state is there as soon as
# one was announced, and in the end the run ends with the weights of one that nobody disturbed, byte for byte.
set -eu

. "$(dirname "$0")/start.sh"
kills=${RWKV_KILLS:-50}
export RWKV_THREADS=1

cat >"$work/recipe.yaml" <<YAML
name: kills
device: cpu
model: { arch: x060, n_layer: 2, n_embd: 64, head_size: 32 }
data: { data_type: jsonl, data_file: $root/tests/cli/data.jsonl, tokenizer: byte, ctx_len: 16 }
train: { micro_bsz: 2, epoch_steps: 1000, epoch_count: 1, lr_init: 1e-3, lr_final: 1e-4, warmup_steps: 5,
         weight_decay: 0.01, precision: fp32 }
save: { proj_dir: out, epoch_save: 1, every: 1, keep: 2 }
log: { every: 1000 }
YAML

run() { "$program" "$work/recipe.yaml" --allow-read "$root" save.proj_dir="$work/$1" "train.epoch_steps=$steps" 2>>"$work/log"; }
start() { # the program itself is $pid, no shell around it
    "$program" "$work/recipe.yaml" --allow-read "$root" save.proj_dir="$work/killed" "train.epoch_steps=$steps" 2>>"$work/log" &
    pid=$!
}
# the number of the newest state, 0 without one
newest() {
    find "$work/killed" -name 'state-*.safetensors' 2>/dev/null | sed 's/.*state-//; s/\.safetensors//' | sort -n |
        tail -n 1 | grep . || echo 0
}
# seconds between 0.05 and 0.55, from the kernel's random numbers
moment() { od -An -N2 -tu2 /dev/urandom | awk '{ printf "%.3f", 0.05 + $1 / 131072 }'; }

# As many steps as 50 interrupted processes can hardly finish; counted in a first look.
steps=100000
start
saved() { [ "$(newest)" -gt 0 ]; }
wait_for saved
sleep 3
kill -9 "$pid"
wait "$pid" 2>/dev/null || true
rate=$(newest)
rm -rf "$work/killed"
steps=$((rate * kills / 8 + 20))

at=0
survived=0
for number in $(seq 1 "$kills"); do
    start
    [ "$number" -gt 1 ] || wait_for saved
    sleep "$(moment)"
    kill -9 "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
    now=$(newest)
    [ "$now" -ge "$at" ] || fail "kill $number: the newest state was $at, now $now"
    if [ "$now" -gt 0 ]; then
        "$program" inspect "$work/killed/state-$now.safetensors" >/dev/null ||
            fail "kill $number: state-$now.safetensors is not whole"
        survived=$((survived + 1))
    fi
    for file in "$work"/killed/rwkv-*.pth; do
        [ ! -f "$file" ] || "$program" inspect "$file" >/dev/null || fail "kill $number: $file is not whole"
    done
    at=$now
done
[ "$survived" -gt 0 ] || fail "no kill met a run that had saved"
run killed
run whole
cmp "$work/whole/rwkv-final.pth" "$work/killed/rwkv-final.pth" || fail "the killed run ends with other weights"
[ -z "$(find "$work/killed" -name '*.tmp-*')" ] || fail "rubbish of dead processes is left"
echo "kills: $kills times kill -9, $survived of them after a save, newest $at of $steps steps; the same bits at the end"
