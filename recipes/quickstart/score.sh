#!/bin/sh
# Asks a model the held-out questions of data/prompts.tsv and counts the answers that contain the expected words.
#
#   score.sh MODEL.pth [AT_LEAST]        status 1 when fewer than AT_LEAST are right
#   score.sh --ask MODEL.pth QUESTION    one answer
#   $RWKV_RUN                            the program; default build/release/rwkv-run
set -eu

here=$(cd "$(dirname "$0")" && pwd)
program=${RWKV_RUN:-$here/../../build/release/rwkv-run}

# ask MODEL QUESTION: the answer, greedy: the first line after the prompt.
ask() {
    prompt=$(printf 'User: %s\n\nAssistant:' "$2")
    text=$("$program" generate "$1" --prompt "$prompt" --tokens 40 --temperature 0 </dev/null)
    text=${text#"$prompt"}
    printf '%s\n' "${text# }" | head -n 1
}

if [ "${1:-}" = --ask ]; then
    ask "$2" "$3"
    exit
fi

model=${1:?usage: score.sh MODEL.pth [AT_LEAST]}
at_least=${2:-0}
tab=$(printf '\t')
right=0
asked=0
while IFS=$tab read -r language question words; do
    answer=$(ask "$model" "$question")
    asked=$((asked + 1))
    case $answer in
    *"$words"*) right=$((right + 1)) mark=ok ;;
    *) mark="no, $words" ;;
    esac
    printf '  %s  %s  ->  %s  (%s)\n' "$language" "$question" "$answer" "$mark"
done <"$here/data/prompts.tsv"
case ${RWKV_LANG:-${LC_ALL:-${LC_MESSAGES:-${LANG:-}}}} in
zh*) printf '答对 %d 个，共 %d 个训练文本中没有的问题\n' "$right" "$asked" ;;
*) printf '%d of %d held-out questions answered\n' "$right" "$asked" ;;
esac
[ "$right" -ge "$at_least" ]
