#!/bin/sh
# Control characters, line ends and broken UTF-8 in whatever a stranger gives: the name of a run, folders, what hooks
# say, the names and metadata in a file of tensors. Nothing of it reaches the terminal or a log raw; no line is forged.
set -eu
. "$(dirname "$0")/common.sh"

evil='a\e[2J\nFORGED\x9b\u202eb'      # as YAML and Lua write it
folder=$(printf 'o\033[2J\nFORGED\302\233u\377t') # as a file system has it
cat >"$work/recipe.yaml" <<YAML
name: "$evil"
device: cpu
model: { arch: x060, n_layer: 2, n_embd: 32, head_size: 32 }
data: { data_type: jsonl, data_file: $root/tests/cli/data.jsonl, tokenizer: byte, ctx_len: 8 }
train: { micro_bsz: 1, epoch_steps: 2, epoch_count: 1, precision: fp32 }
YAML
# run STATUS ARGS...: nothing that it prints or writes is raw, and no line begins with FORGED
run() {
    expected=$1 status=0
    shift
    "$program" "$@" >"$work/stdout" 2>"$work/log" </dev/null || status=$?
    [ "$status" = "$expected" ] || fail "status $status, expected $expected: $*"
    for file in "$work/stdout" "$work/log"; do clean "$file"; done
}
clean() {
    no_controls "$1"
    ! grep -q '^FORGED' "$1" || fail "$1 has a line that the program did not say"
}

run 0 "$work/recipe.yaml" --allow-read "$root" save.proj_dir="$work/$folder" --dry-run
grep -qF 'a\x1b[2J\nFORGED\u009b\u202eb' "$work/stdout" || fail "the name is not shown as it is"
run 0 "$work/recipe.yaml" --allow-read "$root" save.proj_dir="$work/$folder"
for file in metrics.jsonl train_log.txt plan.yaml; do clean "$work/$folder/$file"; done
run 0 "$work/recipe.yaml" --allow-read "$root" save.proj_dir="$work/$folder"
run 0 inspect "$work/$folder/rwkv-final.pth"
run 0 inspect "$work/$folder/state-2.safetensors"
for file in metrics.jsonl train_log.txt plan.yaml; do clean "$work/$folder/$file"; done

# -- hooks; Lua knows no \e and no \u ------------------------------------------------------------------
evil='a\27[2J\nFORGED\194\155\255b'
hook() { # NAME STATUS CODE
    printf 'return { %s }\n' "$3" >"$work/$1.lua"
    run "$2" "$work/recipe.yaml" --allow-read "$root" save.proj_dir="$work/run-$1" "hooks=[$work/$1.lua]"
    for file in metrics.jsonl train_log.txt plan.yaml; do [ ! -f "$work/run-$1/$file" ] || clean "$work/run-$1/$file"; done
}
escaped='a\x1b[2J\nFORGED\u009b\xffb'
hook stop 0 "on_train_batch_end = function(t) t:stop('$evil') end"
says "$escaped"
hook raise 1 "on_train_batch_end = function(t) error('$evil') end"
says "$escaped"
hook log 0 "log = function(t, m) return '$evil' end"
says 'FORGED\u009b\xffb'
hook unknown 1 "['$evil'] = function() end"
says "$escaped"
hook field 1 "lr = function(t) return t['$evil'] end"
hook value 1 "lr = function(t) return '$evil' end"
printf 'local %s\n' "$(printf '\033[2J\302\233\377')" >"$work/syntax.lua"
run 1 "$work/recipe.yaml" --allow-read "$root" save.proj_dir="$work/syntax" "hooks=[$work/syntax.lua]"
printf 'print("a\\27[2J\\194\\155\\255b")\n' >"$work/print.lua"
run 0 lua "$work/print.lua"
says '[2J\u009b\xffb'
bad=$(printf 'h\033[2J\nFORGED\302\233.lua')
echo 'error("x")' >"$work/$bad"
run 1 lua "$work/$bad"
run 2 "$work/recipe.yaml" --allow-read "$root" save.proj_dir="$work/named" "hooks=[$work/$bad]"

# -- keys, values and paths of a recipe ----------------------------------------------------------------------
evil='a\e[2J\nFORGED\x9b\u202eb'
mistake() {
    printf '%s\n' "$1" >"$work/mistake.yaml"
    run 2 "$work/mistake.yaml"
}
mistake "\"$evil\": 1"
mistake "train: { lr_init: \"$evil\" }"
mistake "device: \"$evil\""
mistake "include: [\"$evil\"]"
mistake "model: { arch: x060, n_layer: 2, n_embd: 32, load_model: \"$evil\" }"
run 2 "$work/recipe.yaml" --allow-read "$root" "$(printf 'train.a\033[2J\nFORGED\302\233=1')"
run 2 "$work/$(printf 'no\033\nFORGED\302\233\377.yaml')"
run 1 inspect "$work/$(printf 'no\033\nFORGED\302\233\377.pth')"

# -- a pair of files with such a name ------------------------------------------------------------------------------
pair=$work/$(printf 'p\033\nFORGED\302\233\377')
run 0 tokenize "$root/tests/cli/data.jsonl" "$pair" --tokenizer byte
run 0 inspect "${pair}_text_document.idx"

# -- a file of tensors: one name, one pair of metadata ------------------------------------------------------------
header='{"__metadata__":{"k\u001b\\nFORGED\u009b":"v\u001b[2J\nFORGED\u009b"},"t\u001b[2J\nFORGED\u009b\u202e":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
{
    printf '%b\0\0\0\0\0\0' "$(printf '\\0%o\\0%o' $((${#header} % 256)) $((${#header} / 256)))"
    printf '%s\0\0\0\0' "$header"
} >"$work/tensors.safetensors"
run 0 inspect "$work/tensors.safetensors"
grep -qF 't\x1b[2J\nFORGED\u009b\u202e' "$work/stdout" || fail "inspect does not show the name"
run 1 generate "$work/tensors.safetensors" --prompt x --tokenizer byte
run 1 "$work/recipe.yaml" --allow-read "$root" save.proj_dir="$work/load" model.load_model="$work/tensors.safetensors"
echo "text: nothing was printed raw"
