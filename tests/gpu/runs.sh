#!/bin/sh
# The program on a GPU, from outside; for people who have one, not run by ctest. $RWKV_RUN is the program.
#
#     RWKV_RUN=build/cuda/rwkv-run sh tests/gpu/runs.sh [kills] [greedy] [start]     all three when none is named
#
#   kills   $RWKV_KILLS times (10) kill -9 at a random moment of a bf16 run that saves every second step: a whole state
#           stands each time, and the run ends with the bits of one that nobody disturbed
#   greedy  the quickstart's recipe in fp32, for each architecture: 64 tokens at temperature 0, on the GPU and on the CPU
#   start   from a .pth of x060, 12 x 768, in bf16: time to the first step, and what of it is loading
#
# RWKV_RUNS_DEVICE=cpu tries the script itself without a GPU.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
program=$(realpath "${RWKV_RUN:?RWKV_RUN is the program to test}")
device=${RWKV_RUNS_DEVICE:-cuda}
work=$(mktemp -d)
pid=
cleanup() {
    [ -z "$pid" ] || kill -9 "$pid" 2>/dev/null || true
    rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 1' HUP INT TERM
export RWKV_LANG=en

fail() {
    echo "FAIL: $*" >&2
    [ ! -f "$work/log" ] || tail -c 3000 "$work/log" >&2
    exit 1
}

# -- kill -9 ----------------------------------------------------------------------------------------------------

write_recipe() { # of a run of $1 steps
    cat >"$work/recipe.yaml" <<YAML
name: runs
device: $device
model: { arch: x060, n_layer: 3, n_embd: 256, head_size: 64 }
data: { data_type: jsonl, data_file: $root/recipes/quickstart/data/train.jsonl, tokenizer: byte, ctx_len: 64 }
train: { micro_bsz: 4, accumulate: 2, epoch_steps: $1, epoch_count: 1, lr_init: 1e-3, lr_final: 1e-4, warmup_steps: 5,
         weight_decay: 0.01, precision: bf16 }
save: { proj_dir: out, epoch_save: 1, every: 2, keep: 2 }
log: { every: 100000 }
YAML
}

begin() { # a run in folder $1, as $pid: the program itself, no shell around it
    "$program" "$work/recipe.yaml" --allow-read "$root" save.proj_dir="$work/$1" 2>>"$work/log" &
    pid=$!
}

finish() {
    "$program" "$work/recipe.yaml" --allow-read "$root" save.proj_dir="$work/$1" 2>>"$work/log" || fail "the run in $1 failed"
}

newest() { # number of the newest state, 0 without one
    find "$work/killed" -name 'state-*.safetensors' 2>/dev/null | sed 's/.*state-//; s/\.safetensors//' | sort -n |
        tail -n 1 | grep . || echo 0
}

wait_until() { # a state newer than step $1
    tries=0
    until [ "$(newest)" -gt "$1" ]; do
        kill -0 "$pid" 2>/dev/null || fail "the run ended before step $1"
        tries=$((tries + 1))
        [ "$tries" -lt 6000 ] || fail "waited 120 s for a save after step $1"
        sleep 0.02
    done
}

moment() { od -An -N2 -tu2 /dev/urandom | awk -v most="$1" '{ printf "%.3f", most * $1 / 65536 }'; }

check_files() { # each state and each .pth is whole
    for file in "$work"/killed/state-*.safetensors "$work"/killed/rwkv-*.pth; do
        [ ! -f "$file" ] || "$program" inspect "$file" >/dev/null 2>>"$work/log" || fail "kill $1: $file is not whole"
    done
}

kills() {
    count=${RWKV_KILLS:-10}
    # How long until the first save, and how many steps a second then: the moments are spread over both.
    write_recipe 1000000
    began=$(date +%s%N)
    begin killed
    wait_until 0
    ready=$(($(date +%s%N) - began))
    sleep 2
    kill -9 "$pid"
    wait "$pid" 2>/dev/null || true
    rate=$(newest)
    rm -rf "$work/killed"
    most=$(awk -v ns="$ready" 'BEGIN { printf "%.2f", ns / 1e9 + 1.5 }')
    write_recipe $((rate * count / 2 + 20))

    at=0
    survived=0
    for number in $(seq 1 "$count"); do
        begin killed
        [ "$number" -gt 1 ] || wait_until 0
        sleep "$(moment "$most")"
        kill -9 "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
        pid=
        now=$(newest)
        [ "$now" -ge "$at" ] || fail "kill $number: the newest state was $at, now $now"
        check_files "$number"
        [ "$now" -eq "$at" ] || survived=$((survived + 1))
        at=$now
    done
    [ "$survived" -gt 0 ] || fail "no kill met a run that had saved"
    finish killed
    finish whole
    cmp "$work/whole/rwkv-final.pth" "$work/killed/rwkv-final.pth" || fail "the killed run ends with other weights"
    [ -z "$(find "$work/killed" -name '*.tmp-*')" ] || fail "rubbish of dead processes is left"
    echo "kills: $count times kill -9 within $most s, $survived of them after new saves, newest $at of $((rate * count / 2 + 20)) steps; the same bits at the end"
}

# -- greedy text ------------------------------------------------------------------------------------------------

generate() { # device, model
    "$program" generate "$2" --tokenizer byte --prompt "Question: " --temperature 0 --tokens 64 \
        --device "$1" --precision fp32 2>>"$work/log" || fail "generate on $1 failed"
}

greedy() {
    for arch in x052 x060 x070; do
        "$program" "$root/recipes/quickstart/recipe.yaml" "device=$device" "model.arch=$arch" train.precision=fp32 \
            "train.epoch_steps=${RWKV_QUICKSTART_STEPS:-2400}" save.dtype=fp32 "save.proj_dir=$work/$arch" \
            2>>"$work/log" || fail "quickstart $arch failed"
        generate "$device" "$work/$arch/rwkv-final.pth" >"$work/$arch.gpu"
        generate cpu "$work/$arch/rwkv-final.pth" >"$work/$arch.cpu"
        [ -s "$work/$arch.gpu" ] || fail "$arch: no text"
        cmp "$work/$arch.gpu" "$work/$arch.cpu" || fail "$arch: the GPU writes another text than the CPU"
        echo "greedy: $arch: the same 64 tokens on $device and cpu: $(head -c 60 "$work/$arch.gpu" | tr '\n' ' ')"
    done
}

# -- start ------------------------------------------------------------------------------------------------------

# By the clock, from the row of metrics.jsonl that says the model is loaded and the data are open, and that of step 1.
start() {
    model="arch: x060, n_layer: ${RWKV_START_LAYERS:-12}, n_embd: ${RWKV_START_EMBD:-768}, head_size: 64"
    recipe() { # model, folder, steps
        cat >"$work/start.yaml" <<YAML
name: start
device: $device
model: { $1 }
data: { data_type: jsonl, data_file: $root/recipes/quickstart/data/train.jsonl, tokenizer: byte, ctx_len: ${RWKV_START_CTX:-512} }
train: { micro_bsz: ${RWKV_START_BSZ:-8}, epoch_steps: $3, lr_init: 1e-5, precision: bf16 }
save: { proj_dir: $work/$2, epoch_save: 0, dtype: bf16 }
log: { every: 1 }
YAML
    }
    recipe "$model" made 1
    "$program" "$work/start.yaml" --allow-read "$root" 2>>"$work/log" || fail "the model could not be made"
    for try in 1 2 3; do # the first one may find a cold disk
        recipe "load_model: $work/made/rwkv-final.pth" "start$try" 100000
        began=$(date +%s%N)
        "$program" "$work/start.yaml" --allow-read "$root" 2>>"$work/log" &
        pid=$!
        until grep -q '"event":"step"' "$work/start$try/metrics.jsonl" 2>/dev/null; do
            kill -0 "$pid" 2>/dev/null || fail "the run ended before its first step"
            grep -q '"event":"run"' "$work/start$try/metrics.jsonl" 2>/dev/null && [ -z "${loaded:-}" ] &&
                loaded=$(date +%s%N)
            sleep 0.005
        done
        now=$(date +%s%N)
        kill -9 "$pid"
        wait "$pid" 2>/dev/null || true
        pid=
        bytes=$(wc -c <"$work/made/rwkv-final.pth")
        awk -v a="$began" -v l="${loaded:-$now}" -v n="$now" -v bytes="$bytes" -v try="$try" 'BEGIN {
            printf "start %d: %.2f s to the first step: %.2f s to plan, open the device and load %.0f MB, %.2f s for the first step\n",
                try, (n - a) / 1e9, (l - a) / 1e9, bytes / 1e6, (n - l) / 1e9 }'
        loaded=
    done
}

[ $# -gt 0 ] || set -- kills greedy start
for what in "$@"; do
    case $what in
    kills | greedy | start) "$what" ;;
    *) fail "'$what': expected kills, greedy or start" ;;
    esac
done
