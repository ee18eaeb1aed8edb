#!/bin/sh
# Hooks in a run: they know the validation of their own step, and a script that never returns loses no step.
set -eu

root=$(cd "$(dirname "$0")/../.." && pwd)
program=${RWKV_RUN:?RWKV_RUN is the program to test}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export RWKV_LANG=en RWKV_THREADS=1
cd "$work"
cp "$root/tests/cli/data.jsonl" data.jsonl

cat >recipe.yaml <<YAML
name: events
device: cpu
model: { arch: x060, n_layer: 2, n_embd: 32, head_size: 32 }
data: { data_type: jsonl, data_file: data.jsonl, valid_file: data.jsonl, tokenizer: byte, ctx_len: 8 }
train: { micro_bsz: 1, epoch_steps: 4, epoch_count: 3, precision: fp32, eval_every: 3, eval_batches: 1 }
save: { proj_dir: out, epoch_save: 0 }
YAML

fail() {
    echo "FAIL: $*" >&2
    [ ! -f log ] || cat log >&2
    exit 1
}
# run STATUS ARGS...
run() {
    expected=$1 status=0
    shift
    "$program" recipe.yaml "$@" >stdout 2>log || status=$?
    [ "$status" = "$expected" ] || fail "status $status, expected $expected: $*"
}
says() { grep -qF -- "$1" log || fail "not said: $1"; }

# -- the validation of a step is known in the step: 3, 4 (end of an epoch), 6, 8, 9, 12 -----------------------------

cat >events.lua <<'LUA'
local fresh
return {
  on_validation_end = function(trainer, metrics)
    assert(metrics.val_loss == metrics.val_loss)
    fresh = metrics.val_loss
    print("valid after " .. trainer.step + 1)
  end,
  on_train_batch_end = function(trainer, metrics)
    if fresh then print("known in " .. trainer.step + 1, metrics.val_loss == fresh) end
  end,
  should_save = function(trainer, metrics)
    if fresh then print("saving knows in " .. trainer.step + 1, metrics.val_loss == fresh) end
    fresh = nil
    return false
  end,
  on_train_end = function(trainer, metrics) assert(metrics.loss > 0) end,
}
LUA
run 0 hooks=events.lua save.proj_dir=out-events
for step in 3 4 6 8 9 12; do
    says "valid after $step"
    says "$(printf 'known in %s\ttrue' $step)"
    says "$(printf 'saving knows in %s\ttrue' $step)"
done
[ "$(grep -c 'valid after' log)" = 6 ] || fail "not six validations"

# -- what hooks remember survives a stop: the same bits, the same files -------------------------------------------------

cat >memory.lua <<'LUA'
local n, best = 0, math.huge
return {
  lr = function() return 1e-3 / (1 + n) end, -- from its own count, not from trainer.step
  on_train_batch_end = function(trainer, metrics)
    n = n + 1
    if metrics.loss < best then
      best = metrics.loss
      trainer:save("best")
    end
    trainer:append("log.csv", ("%d,%d,%.17g\n"):format(trainer.step, n, best))
    if n == STOP_AT then trainer:stop("enough") end
  end,
  state_dict = function() return { n = n, best = best } end,
  load_state_dict = function(state) n, best = state.n, state.best end,
}
LUA
sed 's/STOP_AT/0/' memory.lua >whole.lua
sed 's/STOP_AT/5/' memory.lua >half.lua
run 0 hooks=whole.lua save.proj_dir=out-whole
# the same name in another folder: the script with the memory of the first
mkdir first then
cp half.lua first/memory.lua
cp whole.lua then/memory.lua
run 0 hooks=first/memory.lua save.proj_dir=out-parts
says "stopped by a hook after step 5: enough"
run 0 hooks=then/memory.lua save.proj_dir=out-parts
cmp out-whole/rwkv-final.pth out-parts/rwkv-final.pth || fail "other weights after a resume"
cmp out-whole/save-best.pth out-parts/save-best.pth || fail "other save-best.pth after a resume"
cmp out-whole/lua/log.csv out-parts/lua/log.csv || fail "another log.csv after a resume"
[ "$(wc -l <out-whole/lua/log.csv)" = 12 ] || fail "log.csv has not 12 lines"

# -- a loop of print has an end, which is told --------------------------------------------------------------------------

cat >chatty.lua <<'LUA'
local line = ("x"):rep(1000)
return { on_train_batch_end = function(trainer)
  if trainer.step == 0 then for i = 1, 5000 do print(line) end end
end }
LUA
run 0 hooks=chatty.lua save.proj_dir=out-chatty
says "the scripts print more than 1024 KiB and 16 KiB a second"
[ "$(wc -c <log)" -lt 1200000 ] || fail "print wrote $(wc -c <log) bytes"
