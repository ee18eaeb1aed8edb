#!/usr/bin/env python3
"""Every way a run ends saves: readers that leave, a closed terminal, Ctrl-C once and twice, data that fails midway."""
import array
import glob
import json
import os
import pty
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time

program = os.environ["RWKV_RUN"]
root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
environment = dict(os.environ, RWKV_LANG="en", RWKV_THREADS="1", TERM="xterm")
work = tempfile.TemporaryDirectory(prefix="rwkv-ends-")
os.chdir(work.name)

RECIPE = """device: cpu
model: {{ arch: x060, n_layer: 2, n_embd: {n_embd}, head_size: 32{model} }}
data: {{ {data}, ctx_len: 8 }}
train: {{ micro_bsz: 1, epoch_steps: {steps}, epoch_count: 1, precision: fp32 }}
save: {{ proj_dir: out, epoch_save: 0, every: {every} }}
hooks: [slow.lua]
"""
JSONL = "data_type: jsonl, data_file: %s/tests/cli/data.jsonl, tokenizer: byte" % root
SLOW = """return { lr = function(trainer)
  local began = os.clock()
  while os.clock() - began < %g do end
end }
"""


def folder(name, n_embd=32, model="", data=JSONL, steps=12, every=0, seconds=0.1):
    os.makedirs(name)
    with open(name + "/recipe.yaml", "w") as f:
        f.write(RECIPE.format(n_embd=n_embd, model=model, data=data, steps=steps, every=every))
    with open(name + "/slow.lua", "w") as f:
        f.write(SLOW % seconds)
    return name


def start(name, **how):
    return subprocess.Popen([program, name + "/recipe.yaml", "lua.budget_ms=60000"], env=environment, **how)


def rows(name):
    try:
        with open(name + "/out/metrics.jsonl") as f:
            return [json.loads(line) for line in f.read().splitlines(True) if line.endswith("\n")]
    except FileNotFoundError:
        return []


def wait_for(what, seconds=30):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if what():
            return
        time.sleep(0.002)
    sys.exit("FAIL: waited in vain")


def read_all(fd, pieces):
    """What a terminal shows, until nobody writes to it any more."""
    try:
        while piece := os.read(fd, 65536):
            pieces.append(piece)
    except OSError:
        pass


def events(name):
    return [row["event"] for row in rows(name)]


def check(fine, *what):
    if not fine:
        sys.exit("FAIL: " + " ".join(str(w) for w in what))


def states(name):
    return [os.path.basename(path) for path in glob.glob(name + "/out/state-*")]


def reader_leaves():
    """`| head -1`: the run goes on to its end, and metrics.jsonl says why nothing more is printed."""
    name = folder("reader", seconds=0.01)
    run = start(name, stderr=subprocess.PIPE)
    run.stderr.readline()
    run.stderr.close()
    check(run.wait() == 0, "status", run.returncode, "without a reader")
    check("end" in events(name), events(name))
    notes = [row for row in rows(name) if row["event"] == "note"]
    check(len(notes) == 1 and "standard error" in notes[0]["text"], notes)


def reader_leaves_and_interrupt():
    """`2>&1 | tee t.log` and Ctrl-C: tee is gone, the run saves."""
    name = folder("tee")
    run = start(name, stderr=subprocess.PIPE)
    wait_for(lambda: "step" in events(name))
    run.stderr.close()
    run.send_signal(signal.SIGINT)
    check(run.wait() == 3, "status", run.returncode, "after tee and Ctrl-C")
    check(len(states(name)) == 1, os.listdir(name + "/out"))


def hangup():
    """A closed terminal, which sends SIGHUP, more than once; with nohup the run does not stop."""
    name = folder("hangup")
    run = start(name, stderr=subprocess.DEVNULL)
    wait_for(lambda: "step" in events(name))
    for _ in range(3):
        run.send_signal(signal.SIGHUP)
        time.sleep(0.02)
    check(run.wait() == 3, "status", run.returncode, "after SIGHUP")
    check(len(states(name)) == 1, os.listdir(name + "/out"))
    name = folder("nohup", steps=6)
    run = start(name, stderr=subprocess.DEVNULL, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    wait_for(lambda: "step" in events(name))
    run.send_signal(signal.SIGHUP)
    check(run.wait() == 0, "status", run.returncode, "after SIGHUP with nohup")


def terminal_closes():
    name = folder("terminal")
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(program, [program, name + "/recipe.yaml", "lua.budget_ms=60000"], environment)
    wait_for(lambda: "step" in events(name))
    os.close(terminal)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    check(status == 3, "status", status, "after the terminal was closed")
    check(len(states(name)) == 1, os.listdir(name + "/out"))


def first_press_answers():
    """Within the step, not after it."""
    name = folder("answer", seconds=2)
    log = open("log", "w+b")
    run = start(name, stderr=log)
    wait_for(lambda: "run" in events(name))
    run.send_signal(signal.SIGINT)
    began = time.monotonic()
    wait_for(lambda: b"stopping after this step, saving; press again" in open("log", "rb").read())
    check(time.monotonic() - began < 0.5, "answered after", time.monotonic() - began, "s")
    check(run.wait() == 3, "status", run.returncode)
    check(rows(name)[-1]["event"] == "end", rows(name)[-1])


def nothing_to_lose():
    """While a long text is read, one press ends the run or the tokenizer at once, with nothing left behind."""
    with open("long.jsonl", "w") as f:
        for _ in range(64):
            f.write(('{"text": "%s"}\n' % ("0123456789abcdef" * 64)) * 1024)
    name = folder("long", data="data_type: jsonl, data_file: %s/long.jsonl, tokenizer: byte" % os.getcwd())
    run = start(name, stderr=subprocess.PIPE)
    wait_for(lambda: os.path.exists(name + "/out/plan.yaml"))
    run.send_signal(signal.SIGINT)
    said = run.stderr.read().decode()
    check(run.wait() == 3, "status", run.returncode, said)
    check("stopped before the first step; nothing to save" in said and "data:" not in said, said)
    check(not glob.glob(name + "/out/rwkv-*") and "tmp" not in str(os.listdir(name + "/out")), os.listdir(name + "/out"))
    os.mkdir("tokens")
    words = program, "tokenize", "long.jsonl", "tokens/long", "--tokenizer", "byte"
    run = subprocess.Popen(words, env=environment, stderr=subprocess.PIPE)
    wait_for(lambda: os.listdir("tokens"))
    run.send_signal(signal.SIGINT)
    said = run.stderr.read().decode()
    check(run.wait() == 130 and "stopped; the temporary files are removed" in said, "status", run.returncode, said)
    check(os.listdir("tokens") == [], os.listdir("tokens"))
    os.remove("long.jsonl")


def second_press_leaves_nothing():
    """In the middle of a save: a large model that saves after each step."""
    name = folder("twice", n_embd=512, steps=1000, every=1, seconds=0)
    ours, its = pty.openpty()
    run = start(name, stderr=its)
    os.close(its)
    said = []
    reader = threading.Thread(target=read_all, args=(ours, said))
    reader.start()
    wait_for(lambda: glob.glob(name + "/out/state-*.tmp-*"))
    run.send_signal(signal.SIGINT)
    time.sleep(0.005)
    run.send_signal(signal.SIGINT)
    check(run.wait() == 130, "status", run.returncode, "after two presses")
    reader.join()
    said = b"".join(said).decode()
    check(said.endswith("\r\x1b[Kleft without saving; what was saved before is intact\r\n"), repr(said[-300:]))
    check(not glob.glob(name + "/out/*.tmp-*"), "left:", glob.glob(name + "/out/*.tmp-*"))


def data_fails():
    """The .bin is cut short while the run reads it: what was trained until then is saved."""
    n = 4096
    with open("cut.bin", "wb") as f:
        f.write(array.array("H", [i % 250 for i in range(n)]).tobytes())
    with open("cut.idx", "wb") as f:
        f.write(b"MMIDIDX\0\0" + struct.pack("<QBQQ", 1, 8, 1, 2) + struct.pack("<iqqq", n, 0, 0, 1))
    data = "data_type: binidx, data_file: %s/cut" % os.getcwd()
    name = folder("data", data=data, model=", vocab_size: 256", steps=100)
    run = start(name, stderr=subprocess.PIPE)
    wait_for(lambda: events(name).count("step") >= 2)
    os.truncate("cut.bin", 16)
    said = run.stderr.read().decode()
    check(run.wait() == 1, "status", run.returncode, said)
    step = [row for row in rows(name) if row["event"] == "step"]
    check(len(states(name)) == 1, "no state:", os.listdir(name + "/out"), said)
    check("saved after step %d of 100" % len(step) in said, said)


def rows_after_a_kill():
    """Each step once, though the killed process had logged steps that come again; the resume row says what was reached."""
    name = folder("rows", steps=12, every=4, seconds=0.05)
    text = open(name + "/recipe.yaml").read().replace("epoch_steps: 12, epoch_count: 1", "epoch_steps: 3, epoch_count: 4")
    open(name + "/recipe.yaml", "w").write(text)
    began = time.time()
    run = start(name, stderr=subprocess.DEVNULL)
    wait_for(lambda: events(name).count("step") >= 6)
    run.kill()
    run.wait()
    saved = int(states(name)[0].split("-")[1].split(".")[0])
    logged = [row["step"] for row in rows(name) if row["event"] == "step"]
    check(logged[-1] > saved, "killed right after a save")
    check(start(name, stderr=subprocess.DEVNULL).wait() == 0, "the resume failed")
    told = rows(name)
    check([row["step"] for row in told if row["event"] == "step"] == list(range(1, 13)), told)
    check([row["epoch"] for row in told if row["event"] == "step"] == [i // 3 for i in range(12)], told)
    for row in told:
        check(began - 1 < row["time"] < time.time() + 1, "no time of the clock:", row)
    resume = [row for row in told if row["event"] == "resume"]
    check(len(resume) == 1, resume)
    check(resume[0]["step"] == saved and resume[0]["tokens"] == saved * 8, resume)
    check(resume[0]["epoch"] == (saved - 1) // 3 and resume[0]["elapsed"] > 0, resume)


if __name__ == "__main__":
    tests = (reader_leaves, reader_leaves_and_interrupt, hangup, terminal_closes, first_press_answers,
             nothing_to_lose, second_press_leaves_nothing, data_fails, rows_after_a_kill)
    for test in tests:
        if not sys.argv[1:] or test.__name__ in sys.argv[1:]:
            test()
            print(test.__name__)
    os.chdir("/")
