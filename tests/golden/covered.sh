#!/bin/sh
# covered.sh LOGS: what the golden tests said of each folder of the large set (LOGS/*.log, see rw_golden_report() in
# tests/unit/golden.h). A folder that holds files and of which no test spoke is a failure.
set -eu

root=$(cd "$(dirname "$0")/../.." && pwd)
golden=${RWKV_GOLDEN:-$root/../shared/golden}
if [ ! -d "$golden" ]; then
    echo "skipped: no large golden set (set RWKV_GOLDEN to the folder)"
    [ "${RWKV_REQUIRE_GOLDEN:-}" != 1 ] || exit 1
    exit 77
fi

folders=$(cd "$golden" && find -L . -mindepth 2 -type f ! -name '.*' | sed 's|^\./||; s|/[^/]*$||' | sort -u)
[ -n "$folders" ] || {
    echo "FAIL: no folder with files in $golden"
    exit 1
}
n=0
missing=
IFS='
'
for folder in $folders; do
    said=$(awk -v folder="$folder" 'index($0, folder ": ") == 1 { test = FILENAME; sub(/.*\//, "", test)
        sub(/\.log$/, "", test); print $0 " [" test "]" }' "$1"/*.log)
    if [ -n "$said" ]; then echo "$said"; else missing="$missing $folder"; fi
    n=$((n + 1))
done
[ -z "$missing" ] || {
    echo "FAIL: no test has read these folders of $golden:$missing"
    exit 1
}
echo "all $n folders of $golden were read"
