#!/usr/bin/env python3
"""Every way a run ends saves: readers that leave, a closed terminal, Ctrl-C once and twice, data that fails midway."""
import array
import fcntl
import glob
import os
import pty
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time

import hold
from hold import release, wait_for

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
"""
JSONL = "data_type: jsonl, data_file: %s/tests/cli/data.jsonl, tokenizer: byte" % root
ANSWER = b"stopping after this step, saving; press again"


def folder(name, n_embd=32, model="", data=JSONL, steps=12, every=0):
    os.makedirs(name)
    with open(name + "/recipe.yaml", "w") as f:
        f.write(RECIPE.format(n_embd=n_embd, model=model, data=data, steps=steps, every=every))
    return name


def start(name, step, **how):
    """Held after `step` until release(). What it says goes nowhere unless `how` says where."""
    return hold.start([program, name + "/recipe.yaml"], step, environment, **{"stderr": subprocess.DEVNULL, **how})


def start_and_wait(name, step, **how):
    run = start(name, step, **how)
    wait_for(lambda: events(name).count("step") == step)
    return run


def rows(name):
    return hold.rows(name + "/out")


def read_all(fd, pieces):
    """What a terminal shows, until nobody writes to it any more."""
    try:
        while piece := os.read(fd, 65536):
            pieces.append(piece)
    except OSError:
        pass


def events(name):
    return hold.events(name + "/out")


def said(log, what):
    with open(log, "rb") as f:
        return what in f.read()


def check(fine, *what):
    if not fine:
        sys.exit("FAIL: " + " ".join(str(w) for w in what))


def states(name):
    return [os.path.basename(path) for path in glob.glob(name + "/out/state-*")]


def reader_leaves():
    """`| head -1`: the run goes on to its end, and metrics.jsonl says why nothing more is printed."""
    name = folder("reader")
    run = start(name, 0, stderr=subprocess.PIPE)
    run.stderr.readline()
    run.stderr.close()
    release()
    check(run.wait() == 0, "status", run.returncode, "without a reader")
    check("end" in events(name), events(name))
    notes = [row for row in rows(name) if row["event"] == "note"]
    check(len(notes) == 1 and "standard error" in notes[0]["text"], notes)


def reader_leaves_and_interrupt():
    """`2>&1 | tee t.log` and Ctrl-C: tee is gone, the run saves."""
    name = folder("tee")
    run = start_and_wait(name, 1, stderr=subprocess.PIPE)
    run.stderr.close()
    run.send_signal(signal.SIGINT)
    release()
    check(run.wait() == 3, "status", run.returncode, "after tee and Ctrl-C")
    check(len(states(name)) == 1, os.listdir(name + "/out"))


def hangup():
    """A closed terminal, which sends SIGHUP, more than once; with nohup the run does not stop."""
    name = folder("hangup")
    run = start_and_wait(name, 1, stderr=open("log", "wb"))
    run.send_signal(signal.SIGHUP)
    wait_for(lambda: said("log", ANSWER))
    run.send_signal(signal.SIGHUP)
    release()
    check(run.wait() == 3, "status", run.returncode, "after SIGHUP")
    check(len(states(name)) == 1, os.listdir(name + "/out"))
    name = folder("nohup", steps=6)
    run = start_and_wait(name, 1, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    run.send_signal(signal.SIGHUP)
    release()
    check(run.wait() == 0, "status", run.returncode, "after SIGHUP with nohup")


def terminal_closes():
    name = folder("terminal")
    terminal, inner = pty.openpty()
    run = start_and_wait(name, 1, stdin=inner, stdout=inner, stderr=inner, preexec_fn=lambda: own_terminal(inner))
    os.close(inner)
    os.close(terminal)
    release()
    check(run.wait() == 3, "status", run.returncode, "after the terminal was closed")
    check(len(states(name)) == 1, os.listdir(name + "/out"))


def own_terminal(inner):
    os.setsid()
    fcntl.ioctl(inner, termios.TIOCSCTTY, 0)


def first_press_answers():
    """Within the step, not after it: the step is held until the answer has come."""
    name = folder("answer")
    run = start_and_wait(name, 1, stderr=open("log", "wb"))
    run.send_signal(signal.SIGINT)
    wait_for(lambda: said("log", ANSWER))
    check(events(name).count("step") == 1, events(name))
    release()
    check(run.wait() == 3, "status", run.returncode)
    check(rows(name)[-1]["event"] == "end" and events(name).count("step") == 2, events(name))


def stopped(run):
    """All of its threads, by SIGSTOP."""
    letters = set()
    for path in glob.glob("/proc/%d/task/*/stat" % run.pid):
        with open(path) as f:
            letters.add(f.read().rpartition(")")[2].split()[0])
    return letters == {"T"}


def stop_while(run, what):
    while True:
        wait_for(what)
        run.send_signal(signal.SIGSTOP)
        wait_for(lambda: stopped(run))
        if what():
            return
        run.send_signal(signal.SIGCONT)


def nothing_to_lose():
    """While a long text is read, one press ends the run or the tokenizer at once, with nothing left behind."""
    with open("long.jsonl", "w") as f:
        for _ in range(64):
            f.write(('{"text": "%s"}\n' % ("0123456789abcdef" * 64)) * 1024)
    name = folder("long", data="data_type: jsonl, data_file: %s/long.jsonl, tokenizer: byte" % os.getcwd())
    run = start(name, 1, stderr=subprocess.PIPE)
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
    """In the middle of a save, of a large model that saves after each step. The process finds both signals when it wakes:
    two kinds, because equal ones that wait are one. What it says begins its line anew, over the bar of a terminal."""
    name = folder("twice", n_embd=512, steps=1000, every=1)
    ours, its = pty.openpty()
    run = start(name, 0, stderr=its)
    os.close(its)
    pieces = []
    reader = threading.Thread(target=read_all, args=(ours, pieces))
    reader.start()
    release()
    stop_while(run, lambda: glob.glob(name + "/out/state-*.tmp-*"))
    run.send_signal(signal.SIGINT)
    run.send_signal(signal.SIGTERM)
    run.send_signal(signal.SIGCONT)
    check(run.wait() == 143, "status", run.returncode, "after two presses")
    reader.join()
    told = b"".join(pieces).decode()
    check(told.endswith("\r\x1b[Kleft without saving; what was saved before is intact\r\n"), repr(told[-300:]))
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
    run = start_and_wait(name, 2, stderr=subprocess.PIPE)
    os.truncate("cut.bin", 16)
    release()
    told = run.stderr.read().decode()
    check(run.wait() == 1, "status", run.returncode, told)
    step = [row for row in rows(name) if row["event"] == "step"]
    check(len(states(name)) == 1, "no state:", os.listdir(name + "/out"), told)
    check("saved after step %d of 100" % len(step) in told, told)


def rows_after_a_kill():
    """Each step once, though the killed process had logged steps that come again; the resume row says what was reached."""
    name = folder("rows", steps=12, every=4)
    text = open(name + "/recipe.yaml").read().replace("epoch_steps: 12, epoch_count: 1", "epoch_steps: 3, epoch_count: 4")
    open(name + "/recipe.yaml", "w").write(text)
    began = time.time()
    run = start_and_wait(name, 6)
    run.kill()
    run.wait()
    check(states(name) == ["state-4.safetensors"], states(name))
    run = start(name, 0)
    release()
    check(run.wait() == 0, "the resume failed")
    told = rows(name)
    check([row["step"] for row in told if row["event"] == "step"] == list(range(1, 13)), told)
    check([row["epoch"] for row in told if row["event"] == "step"] == [i // 3 for i in range(12)], told)
    for row in told:
        check(began - 1 < row["time"] < time.time() + 1, "no time of the clock:", row)
    resume = [row for row in told if row["event"] == "resume"]
    check(len(resume) == 1, resume)
    check(resume[0]["step"] == 4 and resume[0]["tokens"] == 4 * 8, resume)
    check(resume[0]["epoch"] == 1 and resume[0]["elapsed"] > 0, resume)


if __name__ == "__main__":
    tests = (reader_leaves, reader_leaves_and_interrupt, hangup, terminal_closes, first_press_answers,
             nothing_to_lose, second_press_leaves_nothing, data_fails, rows_after_a_kill)
    for test in tests:
        if not sys.argv[1:] or test.__name__ in sys.argv[1:]:
            test()
            print(test.__name__)
    os.chdir("/")
