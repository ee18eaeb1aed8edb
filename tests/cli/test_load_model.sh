#!/bin/sh
# A recipe that says of the model only where it is: each architecture of the program trains on, and the file that it
# writes has the same shape. Five statements that contradict the file are five messages, each with both values. Official
# files of the large golden set are trained on as well, where it is there.
set -eu

. "$(dirname "$0")/start.sh"
golden=${RWKV_GOLDEN:-$root/../shared/golden}
export RWKV_THREADS=2
cd "$work"

# recipe NAME MODEL
recipe() {
    cat >"$1.yaml" <<END
device: cpu
model: { $2 }
data: { data_type: jsonl, data_file: $root/tests/cli/data.jsonl, tokenizer: byte, ctx_len: 32 }
train: { micro_bsz: 2, epoch_steps: 8, lr_init: 1e-3, lr_final: 1e-3 }
save: { proj_dir: $1, epoch_save: 0 }
END
}

# shape FILE: the line of `inspect` with architecture and sizes
shape() {
    "$program" inspect "$1" | sed -n 2p | sed 's/, *[^,]*copy_ctx [0-9]*//'
}

# losses NAME: first and last loss of a run
losses() {
    sed -n 's/^{"event":"step",.*"loss":\([0-9.]*\),.*/\1/p' "$1/metrics.jsonl" | sed -n '1p;$p' | tr '\n' ' '
}

# trains_on NAME FILE: from load_model alone
trains_on() {
    recipe "$1" "load_model: $2"
    "$program" "$1.yaml" >log 2>&1 || fail "$1: $(tail -n 3 log)"
    [ "$(shape "$1/rwkv-final.pth")" = "$(shape "$2")" ] || fail "$1: $(shape "$1/rwkv-final.pth"), was $(shape "$2")"
    set -- "$1" $(losses "$1")
    awk -v first="$2" -v last="$3" 'BEGIN { exit !(last < first) }' || fail "$1: loss from $2 to $3"
    echo "$1: trained from load_model alone, loss $2 to $3"
}

# contradicted ARCH OTHER: five wrong statements about its file
contradicted() {
    recipe "wrong" "load_model: $1/rwkv-final.pth, arch: $2, n_layer: 4, n_embd: 128, vocab_size: 300, head_size: 64"
    "$program" wrong.yaml >log 2>&1 && fail "$1: five wrong statements were accepted"
    for said in "arch: the recipe says $2, but .*$1/rwkv-final.pth is $1;" \
        "n_layer: the recipe says 4, but .*$1/rwkv-final.pth has 2;" \
        "n_embd: the recipe says 128, but .*$1/rwkv-final.pth has 64;" \
        "vocab_size: the recipe says 300, but .*$1/rwkv-final.pth has 257;" \
        "head_size: the recipe says 64, but .*$1/rwkv-final.pth has 32;"; do
        grep -q "wrong.yaml:2:.*model.$said" log || fail "$1: not said: $said
$(cat log)"
    done
    [ "$(grep -c "the recipe says" log)" = 5 ] || fail "$1: not five messages: $(cat log)"
    [ ! -e wrong ] || fail "$1: a folder was made for a run that was refused"
}

architectures=$("$program" --keys | sed -n 's/^| `model.arch` | \([^|]*\) |.*/\1/p' | sed 's/,/ /g; s/ or / /g')
[ -n "$architectures" ] || fail "--keys names no architecture"
for arch in $architectures; do
    recipe "$arch" "arch: $arch, n_layer: 2, n_embd: 64, head_size: 32"
    "$program" "$arch.yaml" >log 2>&1 || fail "$arch did not train: $(tail -n 3 log)"
    trains_on "$arch-more" "$arch/rwkv-final.pth"
    if [ "$arch" = x060 ]; then contradicted "$arch" x052; else contradicted "$arch" x060; fi
done

n=0
for file in "$golden"/init/*/pth/*.pth; do
    [ -f "$file" ] || continue
    n=$((n + 1))
    trains_on "official-$n" "$file"
done
[ "$n" -gt 0 ] || {
    echo "skipped: no official .pth in $golden (set RWKV_GOLDEN to the folder)"
    [ "${RWKV_REQUIRE_GOLDEN:-}" != 1 ] || exit 1
}
