#!/bin/sh
# tokenize replaces nothing unless told to, and its own input in no case.
set -eu
. "$(dirname "$0")/common.sh"

# run STATUS ARGS...
run() {
    expected=$1 status=0
    shift
    "$program" tokenize "$@" --tokenizer byte >"$work/stdout" 2>"$work/log" </dev/null || status=$?
    [ "$status" = "$expected" ] || fail "status $status, expected $expected: tokenize $*"
}
same() { cmp "$1" "$2" || fail "$1 has changed"; }

cp "$root/tests/cli/data.jsonl" "$work/in.jsonl"
run 0 "$work/in.jsonl" "$work/pair"
for end in bin idx; do
    file=$work/pair_text_document.$end
    for other in bin idx; do rm -f "$work/pair_text_document.$other"; done
    echo mine >"$file"
    run 2 "$work/in.jsonl" "$work/pair"
    says "$file is there already: give another prefix, or --force to replace it"
    [ "$(cat "$file")" = mine ] || fail "$file was replaced"
    run 0 "$work/in.jsonl" "$work/pair" --force
    [ "$(cat "$file" | head -c 4)" != mine ] || fail "--force does not replace $file"
    rm "$file"
done

# the input itself, by its name, by a second name, by a link
for end in bin idx; do
    for how in cp ln 'ln -s'; do
        rm -f "$work"/c.bin "$work"/c.idx
        $how "$work/in.jsonl" "$work/c.$end"
        input=$work/in.jsonl
        [ "$how" != cp ] || input=$work/c.$end
        for force in '' --force; do
            # shellcheck disable=SC2086
            run 2 "$input" "$work/c" --dtype uint16 $force
            says "$work/c.$end is read from here: give the output another prefix"
            same "$work/in.jsonl" "$root/tests/cli/data.jsonl"
            same "$work/c.$end" "$root/tests/cli/data.jsonl"
        done
    done
done

# a link or a pipe that is in the way is not written through, also with --force
rm -f "$work"/c.*
echo mine >"$work/user"
ln -s "$work/user" "$work/c.idx"
run 1 "$work/in.jsonl" "$work/c" --dtype uint16 --force
says "a symbolic link"
[ "$(cat "$work/user")" = mine ] || fail "written through a link"
[ ! -e "$work/c.bin" ] || fail "half a pair was written"
echo "tokenize: nothing was replaced"
