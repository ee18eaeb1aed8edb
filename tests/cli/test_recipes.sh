# The recipes of good/ and bad/, asked of the program itself: messages as pinned in their first lines, status 2; the
# good ones end in a plan. tests/unit/recipe/test_pinned.c explains the pins and also checks values.
set -u
: "${RWKV_RUN:?the program; ctest sets it}"
export RWKV_LANG=en
work=$(mktemp -d) && trap 'rm -rf "$work"' EXIT
failed=0 n=0

# Runs $RWKV_RUN on the recipe $1 with what its lines ask for; the messages go to $work/err.
ask() {
    file=$1
    tr -d '\r' <"$file" | sed -e '1s/^\xef\xbb\xbf//' >"$work/recipe"
    shift
    set -- "$file" "$@"
    while IFS= read -r line; do
        case $line in
        '# with: '*) set -- "$@" "${line#\# with: }" ;;
        '# env: '*) set -- "$@" --env "${line#\# env: }" ;;
        '# set: '*) export "${line#\# set: }" ;;
        esac
    done <"$work/recipe"
    "$RWKV_RUN" "$@" --dry-run >"$work/out" 2>"$work/err"
}

for file in tests/cli/bad/*.yaml; do
    n=$((n + 1))
    name=${file##*/}
    ask "$file"
    status=$?
    sed -n "s/^# expect: //p" "$work/recipe" | sed "s/^[0-9]/$name:&/" >"$work/wanted"
    # A program may say "error: " before the first line.
    sed -e 's|tests/cli/bad/||g' -e '1s/^error: //' -e '1s/^rwkv-run: //' "$work/err" >"$work/got"
    if [ $status -ne 2 ]; then
        echo "$name: status $status, wanted 2"
        failed=1
    fi
    if ! diff "$work/wanted" "$work/got" >"$work/diff"; then
        echo "$name: wanted (<) and got (>):"
        cat "$work/diff"
        failed=1
    fi
done

for file in tests/cli/good/*.yaml; do
    n=$((n + 1))
    if ! ask "$file" device=cpu save.proj_dir="$work/output"; then
        echo "${file##*/}: refused:"
        cat "$work/err"
        failed=1
    fi
done
echo "$n recipes"
exit $failed
