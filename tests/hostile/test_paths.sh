#!/bin/sh
# A recipe's folder that comes with an output folder, and in it, under the names that a run writes, links, pipes,
# second names of the user's files and folders. Nothing outside is written, nothing hangs, the message names the file.
set -eu
here=$(dirname "$0")
. "$here/common.sh"

names="train_log.txt metrics.jsonl plan.yaml rwkv-init.pth rwkv-0.pth rwkv-final.pth state-2.safetensors"
# The stranger's folder claims to be that of the recipe's own runs, and all names in it to be theirs.
claim() {
    printf '{"recipe":"%s"}\n' "$(realpath "$work/$1")/recipe.yaml"
    for claimed in $names; do printf '{"wrote":"%s"}\n' "$claimed"; done
}

run_recipe_in() { # FOLDER: the recipe of a stranger, whose name would be a command for a shell
    mkdir -p "$work/$1/out"
    [ -L "$work/$1/out" ] || claim "$1" >"$work/$1/out/.rwkv-run"
    cat >"$work/$1/recipe.yaml" <<YAML
name: "touch $work/executed #"
device: cpu
model: { arch: x060, n_layer: 2, n_embd: 32, head_size: 32 }
data: { data_type: jsonl, data_file: $root/tests/cli/data.jsonl, tokenizer: byte, ctx_len: 8 }
train: { micro_bsz: 1, epoch_steps: 2, epoch_count: 1, precision: fp32 }
save: { proj_dir: out }
YAML
    status=0
    timeout 120 "$program" "$work/$1/recipe.yaml" --allow-read "$root" >"$work/stdout" 2>"$work/log" </dev/null || status=$?
}

echo "alias ll='ls -l'" >"$work/bashrc"
cp "$work/bashrc" "$work/bashrc.before"
# untouched NAME: the run failed, said why, and the user's file is as it was
untouched() {
    # 2: weights that were not expected are refused before anything is opened
    case $1 in rwkv-0.pth | rwkv-final.pth | state-*) expected=2 ;; *) expected=1 ;; esac
    [ "$status" = $expected ] || fail "$1: status $status, expected $expected"
    says "$1"
    cmp "$work/bashrc" "$work/bashrc.before" || fail "$1: the user's file has changed: $(cat "$work/bashrc")"
    [ ! -e "$work/made" ] || fail "$1: a file was made outside"
}

n=0
for name in $names; do
    for trap in link dangling pipe second folder; do
        n=$((n + 1))
        mkdir -p "$work/$n/out"
        at=$work/$n/out/$name
        case $trap in
        link) ln -s "$work/bashrc" "$at" ;;
        dangling) ln -s "$work/made" "$at" ;;
        pipe) mkfifo "$at" ;;
        folder) mkdir "$at" ;;
        # What is replaced as a whole leaves the other name as it is: that one is no trap.
        second)
            case $name in train_log.txt | metrics.jsonl) ln "$work/bashrc" "$at" ;; *) continue ;; esac
            ;;
        esac
        run_recipe_in "$n"
        untouched "$name"
        rm -rf "${work:?}/$n"
    done
done

# The temporary name of each file, for many process numbers: the file is made anew, never written through the link.
mkdir -p "$work/temporary/out"
for pid in $(seq 2 400); do ln -s "$work/bashrc" "$work/temporary/out/plan.yaml.tmp-$pid"; done
run_recipe_in temporary
[ "$status" = 0 ] || fail "temporary names: status $status"
cmp "$work/bashrc" "$work/bashrc.before" || fail "a temporary file was written through a link"

# Names that only a later save would meet: found before the first step. Names that users give are theirs.
run_recipe_in later
[ "$status" = 0 ] || fail "later: status $status"
ln -s "$work/bashrc" "$work/later/out/rwkv-mine.pth"
mkdir "$work/later/out/rwkv-01.pth"
again() { # EPOCHS
    status=0
    timeout 60 "$program" "$work/later/recipe.yaml" --allow-read "$root" train.epoch_count="$1" save.epoch_save=1 \
        >"$work/stdout" 2>"$work/log" </dev/null || status=$?
}
rows=$(wc -l <"$work/later/out/metrics.jsonl")
for name in rwkv-1.pth rwkv-7.pth state-4.safetensors save-best.pth; do
    for trap in link dangling pipe folder; do
        at=$work/later/out/$name
        case $trap in
        link) ln -s "$work/bashrc" "$at" ;;
        dangling) ln -s "$work/made" "$at" ;;
        pipe) mkfifo "$at" ;;
        folder) mkdir "$at" ;;
        esac
        again 2
        [ "$status" = 1 ] || fail "later, $trap $name: status $status, expected 1"
        says "$name: expected a regular file or nothing of that name"
        [ "$(wc -l <"$work/later/out/metrics.jsonl")" = "$rows" ] || fail "later, $trap $name: something was done"
        rm -d "$at"
        n=$((n + 1))
    done
done
again 2
[ "$status" = 0 ] && [ -f "$work/later/out/rwkv-1.pth" ] || fail "later: status $status"

# proj_dir itself as a link to somewhere else
mkdir -p "$work/linked" "$work/elsewhere"
ln -s "$work/elsewhere" "$work/linked/out"
run_recipe_in linked 2>/dev/null
[ "$status" = 2 ] || fail "proj_dir as a link: status $status, expected 2"
says "save.proj_dir"
[ -z "$(ls -A "$work/elsewhere")" ] || fail "proj_dir as a link: written to"
[ ! -e "$work/executed" ] || fail "a command ran"
echo "paths: $n traps, nothing was written outside"
