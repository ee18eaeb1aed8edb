#!/bin/sh
# A script that never returns, in a compiled loop, where nothing can interrupt it: the watchdog saves before it ends the
# process, so the run resumes after the step that hung, with the bits of a run that was left alone. Waits 12 s.
set -eu

. "$(dirname "$0")/start.sh"
export RWKV_THREADS=1
cd "$work"
cp "$root/tests/cli/data.jsonl" data.jsonl

cat >recipe.yaml <<YAML
name: hang
device: cpu
model: { arch: x060, n_layer: 2, n_embd: 32, head_size: 32 }
data: { data_type: jsonl, data_file: data.jsonl, tokenizer: byte, ctx_len: 8 }
train: { micro_bsz: 1, epoch_steps: 4, epoch_count: 3, precision: fp32 }
save: { epoch_save: 0 }
YAML
cat >hang.lua <<'LUA'
return { on_train_batch_end = function(trainer)
  local x = 0
  if trainer.step == 5 then for i = 1, 1e14 do x = x + i end end
end }
LUA
"$program" recipe.yaml save.proj_dir=alone 2>log
status=0
"$program" recipe.yaml save.proj_dir=hung hooks=hang.lua lua.jit=true 2>log || status=$?
[ "$status" = 1 ] || fail "status $status, expected 1"
grep -qF 'on_train_batch_end does not return' log || fail 'not said: does not return'
grep -qF 'What was trained is saved' log || fail 'not said: saved'
[ -f hung/state-6.safetensors ] || fail "step 6 is not saved: $(ls hung)"
"$program" recipe.yaml save.proj_dir=hung 2>log || fail 'the run does not resume'
cmp alone/rwkv-final.pth hung/rwkv-final.pth || fail 'other bits'
