#!/bin/sh
# The command of the official tutorial, but for its first two words: a pair of files under the official names, which the
# answer names with the line of a recipe that reads them; without --append-eod a word says that id 0 comes all the same.
set -eu

. "$(dirname "$0")/start.sh"
export RWKV_THREADS=1
cd "$work"
cp "$root/tests/cli/data.jsonl" sample.jsonl
# a vocabulary of the 256 bytes and one word of the text
awk 'BEGIN { for (i = 0; i < 256; i++) printf "%d b'"'"'\\x%02x'"'"' 1\n", i + 1, i; print "257 '"'"'plus'"'"' 4" }' >vocab.txt

official="--input ./sample.jsonl --vocab ./vocab.txt --dataset-impl mmap --tokenizer-type RWKVTokenizer"
# tokenize ARGS...
tokenize() { "$program" tokenize "$@" >log 2>&1 || fail "status $?: tokenize $*"; }
says() { grep -qF -- "$1" log || fail "not said: $1"; }

# shellcheck disable=SC2086
tokenize $official --output-prefix ./sample --append-eod
says "wrote ./sample_text_document.bin and .idx: "
says "data: { data_type: binidx, data_file: ./sample_text_document }"
grep -q "append-eod" log && fail "what was asked is said again"
# shellcheck disable=SC2086
tokenize $official --output-prefix ./without
says "as with --append-eod"
tokenize sample.jsonl ours --tokenizer world --vocab vocab.txt
for end in bin idx; do
    cmp "sample_text_document.$end" "without_text_document.$end" || fail "--append-eod changes the .$end"
    cmp "sample_text_document.$end" "ours_text_document.$end" || fail "our arguments make another .$end"
done
[ "$(od -An -tu4 -v sample_text_document.bin | tr -s ' ' '\n' | grep -c '^0$')" = "$(wc -l <sample.jsonl)" ] ||
    fail "the documents do not end with id 0"
od -An -tu4 -v sample_text_document.bin | grep -qw 257 || fail "the vocabulary was not used"

cat >recipe.yaml <<YAML
device: cpu
model: { arch: x060, n_layer: 2, n_embd: 32, head_size: 32 }
$(grep -o 'data: {.*' log | sed 's/ours/sample/; s/ }/, ctx_len: 8 }/')
train: { micro_bsz: 1, epoch_steps: 2, precision: fp32 }
YAML
"$program" recipe.yaml model.vocab_size=258 >log 2>&1 || fail "the recipe of the answer does not train"
says "done: 2 steps"
echo "tokenize: the official arguments make the official pair"
