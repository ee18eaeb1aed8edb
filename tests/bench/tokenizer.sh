#!/bin/sh
# The tokenizer benchmark from nothing: assembles the text, fetches the peer, builds, runs both.
#
#     sh tests/bench/tokenizer.sh [WORK_FOLDER]        (default: a folder below $TMPDIR or /tmp)
#
# Needs a C compiler, jansson, Python 3 with venv, apt (Debian's documentation packages are the text) and PyPI.
# What was fetched stays in the work folder, so a second run only measures. The vocabulary is the peer's own.
set -e
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
work=${1:-${TMPDIR:-/tmp}/rwkv-tokenizer-bench}
mkdir -p "$work"

[ -f "$work/text.txt" ] || python3 "$here/tokenizer_text.py" "$work/text.txt" "$work/packages"

if [ ! -d "$work/peer/rwkv" ]; then
    python3 -m venv "$work/venv"
    "$work/venv/bin/pip" download -q --no-deps -d "$work" rwkv
    python3 -m zipfile -e "$work"/rwkv-*.whl "$work/peer"
fi

# Optimised as the release preset is, without a build folder of its own.
${CC:-cc} -std=c11 -O3 -D_GNU_SOURCE -D_FILE_OFFSET_BITS=64 -DRW_VERSION='"bench"' -I"$root" \
    "$here/tokenizer.c" "$root"/core/data/tokenizer.c "$root"/core/base/*.c \
    -o "$work/tokenizer" -ljansson -lz -lm -lpthread -ldl
python3 "$here/tokenizer_peer.py" "$work/tokenizer" "$work/peer/rwkv/rwkv_vocab_v20230424.txt" "$work/text.txt" "$work/peer"
