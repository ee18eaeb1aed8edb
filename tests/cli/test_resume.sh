#!/bin/sh
# Stop and resume give the same bits: 40 steps in one go, against 20 steps, kill -9 during step 21, and a resume; SIGINT
# leaves with status 3 and a run that can be resumed; a changed recipe is refused by name.
set -eu

. "$(dirname "$0")/start.sh"
cd "$work" # a recipe reads anywhere from its working directory only
export RWKV_THREADS=2

cat >"$work/recipe.yaml" <<YAML
name: resume
device: cpu
model: { arch: x060, n_layer: 2, n_embd: 64, head_size: 32 }
data: { data_type: jsonl, data_file: $root/recipes/quickstart/data/train.jsonl, tokenizer: byte, ctx_len: 24,
        valid_file: $root/tests/cli/data.jsonl }
train: { micro_bsz: 2, accumulate: 2, epoch_steps: 20, epoch_count: 2, lr_init: 1e-3, lr_final: 1e-4, warmup_steps: 5,
         weight_decay: 0.01, random_seed: 3, precision: fp32, eval_batches: 2 }
save: { proj_dir: out, epoch_save: 1, every: 20 }
log: { every: 20 }
YAML

run() { "$program" "$work/recipe.yaml" "$@" 2>>"$work/log"; }
same() { cmp "$work/$1" "$work/$2" || fail "$3"; }

run save.proj_dir="$work/whole"

hold 20 "$work/recipe.yaml" save.proj_dir="$work/parts" 2>"$work/log"
saved() { [ -f "$work/parts/state-20.safetensors" ] && [ -f "$work/parts/rwkv-0.pth" ]; }
wait_for saved
kill -9 "$pid" || fail "the run ended before it was killed"
wait "$pid" || true
[ ! -f "$work/parts/rwkv-final.pth" ] || fail "the killed run ended"
run save.proj_dir="$work/parts"
same whole/rwkv-final.pth parts/rwkv-final.pth "the resumed run ends with other weights"
same whole/rwkv-1.pth parts/rwkv-1.pth "the resumed run saved other weights"
grep -q '"event":"resume","step":20' "$work/parts/metrics.jsonl" || fail "metrics.jsonl does not tell of the resume"

# once more from nothing: the same bits
run save.proj_dir="$work/again"
same whole/rwkv-final.pth again/rwkv-final.pth "two equal runs differ"

# a signal: status 3, a word on how to resume, and the same end
hold 20 "$work/recipe.yaml" save.proj_dir="$work/signal" 2>"$work/log"
wait_for test -f "$work/signal/rwkv-0.pth"
kill -INT "$pid"
release
leaves 3
grep -q 'run the same command to resume' "$work/log" || fail "no word on how to resume"
run save.proj_dir="$work/signal"
same whole/rwkv-final.pth signal/rwkv-final.pth "the run that was stopped ends with other weights"

# another recipe in the same folder is refused, and the key is named
status=0
"$program" "$work/recipe.yaml" save.proj_dir="$work/whole" train.lr_init=2e-3 2>"$work/refused" || status=$?
[ "$status" = 2 ] || fail "status $status for a changed recipe, expected 2"
grep -q 'train.lr_init: was' "$work/refused" || fail "the differing key is not named: $(cat "$work/refused")"

# saying what was left to the plan, with the value it decided, is the same recipe; another value is not
run save.proj_dir="$work/whole" model.vocab_size=257 train.head_chunk=48
status=0
"$program" "$work/recipe.yaml" save.proj_dir="$work/whole" train.head_chunk=16 2>"$work/refused" || status=$?
[ "$status" = 2 ] || fail "status $status for another head_chunk, expected 2"
grep -q 'train.head_chunk: was 48, now 16' "$work/refused" || fail "head_chunk is not named: $(cat "$work/refused")"
echo "resume: same bits after kill -9, after SIGINT and in a second run"
