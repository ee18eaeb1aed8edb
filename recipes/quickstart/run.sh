#!/bin/sh
# sh recipes/quickstart/run.sh: from a fresh clone to a small model that answers questions, within six minutes on
# two CPU cores. Installs what is missing, builds, trains for at most two minutes, draws the losses, and asks the
# model questions that are not in its training text. A second run builds nothing again.
#   run.sh model.arch=x070    arguments are keys of recipe.yaml with another value, here RWKV-7 instead of RWKV-6
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
rw_build_here "$build" rwkv-run || rw_die "$(rw_say_in "the build failed" "编译失败")"
built=$(date +%s)
rw_say_in "ready after $((built - began)) s" "准备完毕，用时 $((built - began)) 秒"

# -- train -------------------------------------------------------------------------------------------------

# A finished run makes room for a new one; an interrupted run is resumed.
[ ! -f "$output/rwkv-final.pth" ] || rm -rf "$output"
status=0
"$program" "$here/recipe.yaml" "$@" || status=$?
[ "$status" = 0 ] || exit "$status"
trained=$(date +%s)

wanted=$(sed -n 's/^ *epoch_steps: *\([0-9]*\).*/\1/p' "$here/recipe.yaml")
for argument; do
    case $argument in train.epoch_steps=*) wanted=${argument#*=} ;; esac
done
made=$(sed -n 's/.*"step": *\([0-9]*\).*/\1/p' "$output/metrics.jsonl" | tail -n 1)
if [ "$made" -lt "$wanted" ]; then
    rw_say_in "This computer made $made of $wanted steps in the time allowed; training ended there, at its final learning rate." \
        "本机在限定时间内完成了 $wanted 步中的 $made 步；训练到此结束，学习率已降到终值。"
fi

# -- the losses --------------------------------------------------------------------------------------------

columns=${COLUMNS:-$(tput cols 2>/dev/null || echo 80)}
[ "$columns" -le 110 ] || columns=110
case ${LC_ALL:-${LC_CTYPE:-${LANG:-}}} in
*UTF-8* | *utf8* | *UTF8*) utf8=1 ;;
*) utf8=0 ;;
esac
rw_say ""
LC_ALL=C awk -v columns="$columns" -v utf8="$utf8" -v zh="$(rw_say_in 0 1)" -f "$here/plot.awk" "$output/metrics.jsonl"

# -- questions ---------------------------------------------------------------------------------------------

RWKV_RUN=$program
export RWKV_RUN
rw_say ""
rw_say_in "Three held-out questions, before and after:" "三个训练文本中没有的问题，训练前后的回答："
before=$(rw_say_in "before" "训练前") after=$(rw_say_in "after " "训练后")
for number in 1 5 14; do
    sed -n "${number}p" "$here/data/prompts.tsv" | cut -f 2 | while read -r question; do
        rw_say "  $question"
        rw_say "    $before  $(sh "$here/score.sh" --ask "$output/rwkv-init.pth" "$question" | LC_ALL=C tr -c ' -~\n' '?')"
        rw_say "    $after  $(sh "$here/score.sh" --ask "$output/rwkv-final.pth" "$question")"
    done
done
rw_say ""
sh "$here/score.sh" "$output/rwkv-final.pth" | tail -n 1
rw_say_in "build $((built - began)) s, training $((trained - built)) s; the model: ${output#"$PWD"/}/rwkv-final.pth" \
    "编译 $((built - began)) 秒，训练 $((trained - built)) 秒；模型：${output#"$PWD"/}/rwkv-final.pth"
