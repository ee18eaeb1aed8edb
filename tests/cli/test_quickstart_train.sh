#!/bin/sh
# label: slow. The quickstart trains each architecture in two minutes: held-out loss below 0.6 nats a byte and within
# 0.15 of the training loss. x060 and x070 answer 15 of 20 questions that they have not read. x052 learns the facts in
# the last steps, and says nothing reliable where the time ends before them: 7 of 20 after 1950 steps, 18 after 2400.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
quickstart=$root/recipes/quickstart
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
trap 'exit 1' HUP INT TERM

# check ARCH ANSWERS
check() {
    output=$folder/$1
    "$RWKV_RUN" "$quickstart/recipe.yaml" "model.arch=$1" "save.proj_dir=$output" >"$folder/log" 2>&1 || {
        cat "$folder/log"
        exit 1
    }
    [ -f "$output/rwkv-init.pth" ] || { echo "$1: rwkv-init.pth is missing"; exit 1; }
    LC_ALL=C awk -f "$quickstart/plot.awk" "$output/metrics.jsonl" | tee "$folder/plot"
    sed -n 's/.*training \([0-9.]*\), held out \([0-9.]*\).*/\1 \2/p' "$folder/plot" | awk -v arch="$1" '
        { n++; if ($2 >= 0.6) bad = "held-out loss " $2 ", below 0.6 wanted"
          if ($2 - $1 > 0.15) bad = "held-out loss " $2 " is " $2 - $1 " above the training loss, at most 0.15 wanted" }
        END { if (n != 1) bad = "no losses in the plot"; if (bad != "") { print arch ": " bad; exit 1 } }'
    sh "$quickstart/score.sh" "$output/rwkv-final.pth" "$2"
}

check x060 15
check x070 15
check x052 0
