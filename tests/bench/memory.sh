#!/bin/sh
# The plan against the run: plans and trains a few steps of x060 L12 D768 (vocabulary 65,536, ctx 512) from scratch, samples
# the anonymous memory of the process, and prints both. Needs about 5 GB.
#
#   RWKV_RUN=build/release/rwkv-run sh tests/bench/memory.sh [micro_bsz [grad_cp [steps]]]
set -eu
program=${RWKV_RUN:-build/release/rwkv-run}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export RWKV_LANG=en

awk 'BEGIN { for (i = 0; i < 4000; i++) printf "{\"text\": \"line %d of a text that is long enough for a window\"}\n", i }' >"$work/text.jsonl"
cat >"$work/recipe.yaml" <<YAML
name: memory
device: cpu
model: { arch: x060, n_layer: 12, n_embd: 768, vocab_size: 65536 }
data: { data_type: jsonl, data_file: text.jsonl, tokenizer: byte, ctx_len: 512 }
train: { micro_bsz: ${1:-1}, grad_cp: ${2:-0}, epoch_steps: ${3:-3}, precision: fp32, lr_init: 1e-5 }
save: { proj_dir: out, epoch_save: 0 }
YAML

"$program" "$work/recipe.yaml" --dry-run | tee "$work/plan" | sed -n '/^memory/,$p'
"$program" "$work/recipe.yaml" 2>"$work/log" &
pid=$!
peak=0
while kill -0 "$pid" 2>/dev/null; do
    now=$(awk '/^RssAnon/ { print $2 }' "/proc/$pid/status" 2>/dev/null || echo 0)
    [ "${now:-0}" -le "$peak" ] || peak=$now
    grep -q '^saved .*final' "$work/log" && break
    sleep 0.05
done
wait "$pid" || { cat "$work/log"; exit 1; }
planned=$(awk '/process, roughly/ { v = $3; u = $4; print v * (u == "GiB" ? 1048576 : u == "MiB" ? 1024 : 1) }' "$work/plan")
awk -v p="$planned" -v m="$peak" 'BEGIN { printf "planned %.0f MiB, anonymous memory of the process at its peak %.0f MiB, %+.1f %%\n", p / 1024, m / 1024, 100 * (m / p - 1) }'
