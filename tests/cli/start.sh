# What the shell tests begin with: $root, $program, a scratch folder $work that goes with the test, and
#
#   fail WHY...    ends the test, with what the program said last where it went to $work/log
#   wait_for, hold, release, leaves    to meet a run in its middle: see below
#
# No test waits for a time: it waits for an event, so that it holds on a machine of any load.
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

# wait_for COMMAND...: until it succeeds; only a failure takes the 120 s
wait_for() {
    end=$(($(date +%s) + 120))
    until "$@"; do
        [ "$(date +%s)" -lt "$end" ] || fail "waited in vain: $*"
        sleep 0.02
    done
}

# hold STEP ARGS...: the program in the background, as $pid; it waits before the step after STEP until `release`
hold() {
    export HOLD_STEP="$1" HOLD_FILE="$work/held"
    shift
    : >"$HOLD_FILE"
    "$program" "$@" --trust lua.budget_ms=600000 "hooks=[$root/tests/cli/hold.lua]" &
    pid=$!
}
release() { rm "$HOLD_FILE"; }

# leaves STATUS: what $pid ends with
leaves() {
    status=0
    wait "$pid" || status=$?
    [ "$status" = "$1" ] || fail "status $status, expected $1"
}
