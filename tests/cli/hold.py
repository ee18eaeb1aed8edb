"""What the Python tests that meet a run in its middle share: no test waits for a time, each waits for an event."""
import json
import os
import subprocess
import sys
import time

HOOK = os.path.join(os.path.dirname(os.path.abspath(__file__)), "hold.lua")
SECONDS = 120  # only a failure takes so long


def start(words, step, environment, **how):
    """The program with `words`, held before the step after `step` until release()."""
    name = os.path.abspath("held")
    open(name, "w").close()
    words = [*words, "--trust", "lua.budget_ms=600000", "hooks=[%s]" % HOOK]
    return subprocess.Popen(words, env=dict(environment, HOLD_FILE=name, HOLD_STEP=str(step)), **how)


def release():
    os.remove("held")


def wait_for(what):
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        if what():
            return
        time.sleep(0.005)
    sys.exit("FAIL: waited in vain")


def rows(proj_dir):
    """The whole rows of metrics.jsonl."""
    try:
        with open(proj_dir + "/metrics.jsonl") as f:
            return [json.loads(line) for line in f.read().splitlines(True) if line.endswith("\n")]
    except FileNotFoundError:
        return []


def events(proj_dir):
    return [row["event"] for row in rows(proj_dir)]
