#!/bin/sh
# A recipe from outside the working directory reads its own folder, and what the command line allows.
set -eu

. "$(dirname "$0")/start.sh"
export RWKV_THREADS=1
mkdir -p "$work/dl" "$work/home" "$work/here"
cp "$root/tests/cli/data.jsonl" "$work/home/secret.jsonl"
cp "$root/tests/cli/data.jsonl" "$work/dl/data.jsonl"
ln -s ../home/secret.jsonl "$work/dl/link.jsonl"
echo 'return {}' >"$work/home/hook.lua"
cd "$work/here"

recipe() {
    cat >"$work/dl/recipe.yaml" <<YAML
device: cpu
model: { arch: x060, n_layer: 2, n_embd: 32, head_size: 32 }
data: { data_type: jsonl, data_file: $1, tokenizer: byte, ctx_len: 8 }
train: { micro_bsz: 1, epoch_steps: 1, precision: fp32 }
$2
YAML
}
# plan STATUS ARGS...
plan() {
    expected=$1 status=0
    shift
    "$program" ../dl/recipe.yaml --dry-run "$@" >/dev/null 2>"$work/log" || status=$?
    [ "$status" = "$expected" ] || fail "status $status, expected $expected: $*"
}
says() { grep -qF -- "$1" "$work/log" || fail "not said: $1"; }

recipe data.jsonl ''
plan 0
for secret in ../home/secret.jsonl link.jsonl "$work/home/secret.jsonl"; do
    recipe "$secret" ''
    plan 2
    says 'recipe.yaml:3:38: data.data_file: '
    says 'to let it read that, add --allow-read '
    plan 0 --allow-read ../home
    plan 0 --allow-read "$work/home/secret.jsonl"
    plan 0 --trust
    plan 2 --allow-read "$work/home/secret"
done
plan 0 data.data_file=../home/secret.jsonl
recipe data.jsonl 'hooks: [../home/hook.lua]'
plan 2
says 'recipe.yaml:5:9: hooks[0]: '
plan 0 --allow-read ../home/hook.lua
plan 0 hooks=../home/hook.lua
# in the working directory a recipe reads what it names
recipe ../home/secret.jsonl ''
cd ..
"$program" dl/recipe.yaml --dry-run >/dev/null 2>"$work/log" || fail 'a recipe of the working directory does not read'
