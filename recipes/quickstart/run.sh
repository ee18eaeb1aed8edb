#!/bin/sh
# sh recipes/quickstart/run.sh: from a fresh clone to a small model that answers questions, within six minutes on
# two CPU cores. Installs what is missing, builds, trains at most two minutes, draws the losses, and asks the
# model questions that its training text does not hold. A second time nothing is built again.
#   $RW_BUILD_DIR    another build folder than build/release
set -eu

rw_root=$(cd "$(dirname "$0")/../.." && pwd)
here=$rw_root/recipes/quickstart
. "$here/setup.sh"
build=${RW_BUILD_DIR:-$rw_root/build/release}
program=$build/rwkv-run
output=$here/output
began=$(date +%s)

# -- build -------------------------------------------------------------------------------------------------

rw_install_packages build || exit 1
rw_say "building in $build"
rw_build "$build" release rwkv-run || rw_die "the build failed"
built=$(date +%s)
rw_say "ready after $((built - began)) s"

# -- train -------------------------------------------------------------------------------------------------

# A run that ended makes place for a new one; one that was interrupted goes on where it was.
[ ! -f "$output/rwkv-final.pth" ] || rm -rf "$output"
status=0
"$program" "$here/recipe.yaml" || status=$?
[ "$status" = 0 ] || exit "$status"
trained=$(date +%s)

wanted=$(sed -n 's/^ *epoch_steps: *\([0-9]*\).*/\1/p' "$here/recipe.yaml")
last=$(sed -n 's/.*"step": *\([0-9]*\).*/\1/p' "$output/metrics.jsonl" | tail -n 1)
made=$((last + 1)) # steps are counted from 0
if [ "$made" -lt "$wanted" ]; then
    rw_say "This computer made $made of $wanted steps in the time allowed; the training ended there, with its learning rate down."
fi

# -- the losses --------------------------------------------------------------------------------------------

columns=${COLUMNS:-$(tput cols 2>/dev/null || echo 80)}
[ "$columns" -le 110 ] || columns=110
case ${LC_ALL:-${LC_CTYPE:-${LANG:-}}} in
*UTF-8* | *utf8* | *UTF8*) utf8=1 ;;
*) utf8=0 ;;
esac
rw_say ""
LC_ALL=C awk -v columns="$columns" -v utf8="$utf8" -f "$here/plot.awk" "$output/metrics.jsonl"

# -- questions ---------------------------------------------------------------------------------------------

RWKV_RUN=$program
export RWKV_RUN
rw_say ""
rw_say "Three held-out questions, before and after:"
for number in 1 5 14; do
    sed -n "${number}p" "$here/data/prompts.tsv" | cut -f 2 | while read -r question; do
        rw_say "  $question"
        rw_say "    before  $(sh "$here/score.sh" --ask "$output/rwkv-init.pth" "$question" | LC_ALL=C tr -c ' -~\n' '?')"
        rw_say "    after   $(sh "$here/score.sh" --ask "$output/rwkv-final.pth" "$question")"
    done
done
rw_say ""
sh "$here/score.sh" "$output/rwkv-final.pth" | tail -n 1
rw_say "build $((built - began)) s, training $((trained - built)) s; the model: ${output#"$PWD"/}/rwkv-final.pth"
