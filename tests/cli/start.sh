# What the shell tests begin with: $root, $program, a scratch folder $work that goes with the test, and
#
#   fail WHY...    ends the test, with what the program said last where it went to $work/log
root=$(cd "$(dirname "$0")/../.." && pwd)
program=${RWKV_RUN:?RWKV_RUN is the program to test}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
export RWKV_LANG=en

fail() {
    echo "FAIL: $*" >&2
    [ ! -f "$work/log" ] || tail -c 4000 "$work/log" >&2
    exit 1
}
