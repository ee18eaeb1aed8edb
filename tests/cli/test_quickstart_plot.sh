#!/bin/sh
# plot.awk on metrics made here: both curves fall from the upper left to the lower right, every line fits, the last
# line gives the final losses; lines without numbers do not disturb it, and too few are an error.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

plot() { LC_ALL=C awk -v columns=60 -f "$root/recipes/quickstart/plot.awk" "$folder/metrics.jsonl"; }
fail() { echo "FAILED: $*"; cat "$folder/plot"; exit 1; }

awk 'BEGIN { for (s = 0; s < 400; s++) {
    printf "{\"step\": %d, \"loss\": %.6f, \"lr\": 0.001", s, 4 * exp(-s / 100) + 0.2
    if (s % 40 == 39) printf ", \"val_loss\": %.6f", 4 * exp(-s / 100) + 0.25; else printf ", \"val_loss\": null"
    print "}" } }' >"$folder/metrics.jsonl"
plot >"$folder/plot"
awk '{ if (length($0) > 60) exit 1 }' "$folder/plot" || fail "a line is longer than the terminal"
[ "$(grep -c '|\|+' "$folder/plot")" -ge 16 ] || fail "16 rows wanted"
sed -n 2p "$folder/plot" | grep -q '^ *[|+]\.' || fail "the training curve begins at the upper left"
sed -n 17p "$folder/plot" | grep -q '\.$' || fail "the training curve ends at the lower right"
[ "$(grep -c ' o\|\.o\|[|+]o' "$folder/plot")" -ge 6 ] || fail "the held-out curve is missing"
grep -q 'held out 0\.3240$' "$folder/plot" || fail "the last held-out loss is 0.3240"

head -n 1 "$folder/metrics.jsonl" >"$folder/one" && mv "$folder/one" "$folder/metrics.jsonl"
if plot >"$folder/plot"; then fail "one step is too few"; fi
