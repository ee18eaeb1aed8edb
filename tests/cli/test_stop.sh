#!/bin/sh
# How runs end: signals, a hook that fails, the clock, a finished run again; and what is in proj_dir then.
set -eu

. "$(dirname "$0")/start.sh"
cd "$work" # a recipe reads anywhere from its working directory only
export RWKV_THREADS=1

cat >"$work/recipe.yaml" <<YAML
name: stop
device: cpu
model: { arch: x060, n_layer: 2, n_embd: 32, head_size: 32 }
data: { data_type: jsonl, data_file: $root/tests/cli/data.jsonl, tokenizer: byte, ctx_len: 8 }
train: { micro_bsz: 1, epoch_steps: 4, epoch_count: 3, precision: fp32 }
save: { proj_dir: out, epoch_save: 1 }
YAML
cat >"$work/slow.lua" <<'LUA'
-- every step takes a while
return { lr = function(trainer)
  local began = os.clock()
  while os.clock() - began < 0.3 do end
end }
LUA
cat >"$work/wrong.lua" <<'LUA'
return {
  on_train_batch_end = function(trainer, metrics)
    if trainer.step == 2 then
      local nothing
      return nothing.loss
    end
  end,
}
LUA

# run NAME STATUS ARGS...: the run in proj_dir NAME must leave with STATUS
run() {
    dir=$work/$1 expected=$2 status=0
    shift 2
    "$program" "$work/recipe.yaml" save.proj_dir="$dir" lua.budget_ms=60000 "$@" >"$work/stdout" 2>"$work/log" || status=$?
    [ "$status" = "$expected" ] || fail "status $status, expected $expected: $*"
}
says() { grep -qF -- "$1" "$work/log" || fail "not said: $1"; }
whole() { "$program" inspect "$1" >/dev/null || fail "$1 is not whole"; }

# -- a run to its end; only official names --------------------------------------------------------
run whole 0
says "done: 12 steps"
for file in "$work"/whole/rwkv-*; do
    name=${file##*/}
    expr "$name" : 'rwkv-[0-9][0-9]*\.pth$' >/dev/null || [ "$name" = rwkv-init.pth ] || [ "$name" = rwkv-final.pth ] ||
        fail "the official trainer cannot read the name $name"
    whole "$file"
done
for name in rwkv-0.pth rwkv-1.pth rwkv-2.pth rwkv-init.pth rwkv-final.pth plan.yaml metrics.jsonl train_log.txt; do
    [ -f "$work/whole/$name" ] || fail "no $name"
done
[ -z "$(find "$work/whole" -name '*.tmp-*')" ] || fail "a temporary file is left"

# -- once more: nothing is left to do, and nothing is written ------------------------------------------
cp "$work/whole/rwkv-final.pth" "$work/final.pth"
(cd "$work/whole" && ls -lA --time-style=full-iso) >"$work/before"
run whole 0
says "already finished: 12 steps"
says "train.epoch_count=4"
(cd "$work/whole" && ls -lA --time-style=full-iso) >"$work/after"
cmp "$work/before" "$work/after" || fail "a finished run wrote something"
cp -r "$work/whole" "$work/more"
run more 0 train.epoch_count=4
says "done: 16 steps"
# the state of a finished run without its end, and another number of threads
run last 0
sed -i '/finished/d' "$work/last/.rwkv-run"
RWKV_THREADS=2 run last 0
says "resuming from $work/last/state-12.safetensors"
says "using 1 threads, as the saved run did"
cmp "$work/final.pth" "$work/last/rwkv-final.pth" || fail "a finished run changed its weights"

# -- keep ------------------------------------------------------------------------------------------
run keep 0 save.keep=1 save.every=2
[ -f "$work/keep/rwkv-2.pth" ] && [ ! -f "$work/keep/rwkv-1.pth" ] || fail "save.keep=1 keeps $(ls "$work/keep")"
[ "$(find "$work/keep" -name 'state-*' | wc -l)" = 1 ] || fail "save.keep=1 keeps $(ls "$work/keep")"
cmp "$work/final.pth" "$work/keep/rwkv-final.pth" || fail "saving more often changed the weights"

# -- SIGTERM; the answer comes while the step is held -------------------------------------------------
# start NAME: a run in the background, past its beginning and not past its second step
start() {
    hold 1 "$work/recipe.yaml" save.proj_dir="$work/$1" >"$work/stdout" 2>"$work/log"
    wait_for grep -qs '"event":"step"' "$work/$1/metrics.jsonl"
}
press() {
    kill "-$1" "$pid"
    wait_for grep -q 'stopping after this step' "$work/log"
}
start term
press TERM
release
leaves 3
says "run the same command to resume"
newest=$(find "$work/term" -name 'state-*')
whole "$newest"
[ ! -f "$work/term/rwkv-final.pth" ] || fail "a stopped run is not final"
run term 0 # without the hook, which changes no bit
cmp "$work/final.pth" "$work/term/rwkv-final.pth" || fail "the run that was stopped ends with other weights"

# a second signal ends at once
for signal in TERM INT; do
    start "twice$signal"
    press $signal
    kill -$signal "$pid"
    if [ $signal = TERM ]; then leaves 143; else leaves 130; fi
done

# -- a hook that fails ------------------------------------------------------------------------------
run hook 1 "hooks=[$work/wrong.lua]"
says "wrong.lua:5: on_train_batch_end at step 3: "
says "nothing"
whole "$work/hook/state-3.safetensors"
run hook 0 # repaired: resumes
says "state-3.safetensors"
cmp "$work/final.pth" "$work/hook/rwkv-final.pth" || fail "the run with the repaired hook ends with other weights"

# scripts are read before anything is planned: this "checkpoint" is never looked at
printf 'return {' >"$work/syntax.lua"
run order 1 "hooks=[$work/syntax.lua]" model.load_model="$work/syntax.lua"
says "syntax.lua:1: "

# in the last step of an epoch: the next epoch begins with its own losses
sed 's/step == 2/step == 3/' "$work/wrong.lua" >"$work/later.lua"
run later 1 "hooks=[$work/later.lua]"
run later 0
epochs() { tail -n 2 "$work/$1/train_log.txt" | cut -d ' ' -f 1-4; }
grep -v 'NEW RUN\|^stop$\|state-' "$work/whole/train_log.txt" >"$work/whole/epochs"
[ "$(epochs later)" = "$(tail -n 2 "$work/whole/epochs" | cut -d ' ' -f 1-4)" ] ||
    fail "epochs after a resume: $(epochs later), whole: $(cat "$work/whole/train_log.txt")"

# -- the clock; the first step takes at least 0.3 seconds ------------------------------------------------
run clock 0 train.max_seconds=0.1 "hooks=[$work/slow.lua]"
says "stopped after 0.1 seconds (train.max_seconds) at step 1 of 12"
whole "$work/clock/rwkv-final.pth"
whole "$work/clock/state-1.safetensors"

# -- nothing is written by a dry run; a state that is not there is named -------------------------------
run dry 0 --dry-run
[ ! -e "$work/dry" ] || fail "--dry-run wrote $(ls "$work/dry")"
grep -q "plan of stop" "$work/stdout" || fail "--dry-run prints no plan"
run missing 1 --resume "$work/none.safetensors"
says "$work/none.safetensors: cannot open: No such file or directory"
run missing 1 --resume "$work/whole/rwkv-0.pth"
says "$work/whole/rwkv-0.pth: metadata 'recipe' is missing; is this a training state?"
[ ! -e "$work/missing" ] || fail "a resume that cannot be wrote $(ls "$work/missing")"
printf 'not a state' >"$work/broken.safetensors"
run missing 1 --resume "$work/broken.safetensors"
says "$work/broken.safetensors: "
# from a state by its path, into another folder
run other 0 --resume "$work/hook/state-12.safetensors"
cmp "$work/final.pth" "$work/other/rwkv-final.pth" || fail "--resume PATH ends with other weights"
echo "stop: signals, hooks, the clock, dry runs and resumes end as they should"
