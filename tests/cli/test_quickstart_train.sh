#!/bin/sh
# label: slow. The quickstart trains in two minutes and answers questions that it has not read: held-out loss below
# 0.6 nats a byte and within 0.15 of the training loss, 15 of 20 held-out questions.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
quickstart=$root/recipes/quickstart
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
trap 'exit 1' HUP INT TERM

"$RWKV_RUN" "$quickstart/recipe.yaml" "save.proj_dir=$folder/output" >"$folder/log" 2>&1 || {
    cat "$folder/log"
    exit 1
}
[ -f "$folder/output/rwkv-init.pth" ] || { echo "rwkv-init.pth is missing"; exit 1; }
LC_ALL=C awk -f "$quickstart/plot.awk" "$folder/output/metrics.jsonl" | tee "$folder/plot"
sed -n 's/.*training \([0-9.]*\), held out \([0-9.]*\).*/\1 \2/p' "$folder/plot" | awk '
    { n++; if ($2 >= 0.6) bad = "held-out loss " $2 ", below 0.6 wanted"
      if ($2 - $1 > 0.15) bad = "held-out loss " $2 " is " $2 - $1 " above the training loss, at most 0.15 wanted" }
    END { if (n != 1) bad = "no losses in the plot"; if (bad != "") { print bad; exit 1 } }'
sh "$quickstart/score.sh" "$folder/output/rwkv-final.pth" 15
