#!/usr/bin/env python3
"""Whose folder is it: locks, weights that are not overwritten, files of the user, going on with other numbers."""
import glob
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile

import hold

program = os.environ["RWKV_RUN"]
root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
environment = dict(os.environ, RWKV_LANG="en", RWKV_THREADS="1")
work = tempfile.TemporaryDirectory(prefix="rwkv-folder-")
os.chdir(work.name)

RECIPE = """device: cpu
model: { arch: x060, n_layer: 2, n_embd: 32, head_size: 32 }
data: { data_type: jsonl, data_file: %s/tests/cli/data.jsonl, tokenizer: byte, ctx_len: 8 }
train: { micro_bsz: 1, epoch_steps: 4, epoch_count: 2, precision: fp32 }
save: { proj_dir: %s, epoch_save: 1%s }
"""


def recipe(name, proj_dir="out", more=""):
    os.makedirs(os.path.dirname(name) or ".", exist_ok=True)
    with open(name, "w") as f:
        f.write(RECIPE % (root, proj_dir, more))
    return name


def run(*words, status=0, shell=False):
    """What the program says; it must leave with `status`."""
    words = words[0] if shell else [program, *words]
    done = subprocess.run(words, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, shell=shell)
    said = done.stdout + done.stderr
    check(done.returncode == status, "status", done.returncode, "expected", status, words, said)
    return said


def check(fine, *what):
    if not fine:
        sys.exit("FAIL: " + " ".join(str(w) for w in what))


def names(folder):
    return sorted(os.listdir(folder))


def contents(folder):
    return {name: open(os.path.join(folder, name), "rb").read() for name in names(folder)
            if os.path.isfile(os.path.join(folder, name))}


def command(said, ending):
    """The command that the message prints, chosen by what it adds."""
    for line in said.splitlines():
        if ending in line and line.strip().startswith(program):
            return line.strip()
    sys.exit("FAIL: no command with %s in: %s" % (ending, said))


def start(r, proj_dir):
    """A run that is held after its first step."""
    process = hold.start([program, r], 1, environment, stderr=subprocess.DEVNULL)
    hold.wait_for(lambda: "step" in hold.events(proj_dir))
    return process


def second_run_is_refused():
    r = recipe("lock/r.yaml")
    first = start(r, "lock/out")
    said = run(r, status=2)
    check("another run writes into this folder (process %d on %s)" % (first.pid, os.uname().nodename) in said, said)
    run(r, "--dry-run")
    run("inspect", "lock/out/rwkv-init.pth")
    hold.release()
    check(first.wait() == 0, "the first run did not end")


def killed_run_frees_the_folder():
    r = recipe("killed/r.yaml")
    first = start(r, "killed/out")
    first.send_signal(signal.SIGKILL)
    first.wait()
    run(r)  # rwkv-init.pth alone holds nothing that was learned


def deleted_state_keeps_weights():
    r = recipe("deleted/r.yaml")
    run(r)
    for state in glob.glob("deleted/out/state-*"):
        os.remove(state)
    before = contents("deleted/out")
    for words in ((), ("--resume", "never")):
        said = run(r, *words, status=2)
        check("deleted/out holds 3 weights and 0 training states" in said, said)
        check(contents("deleted/out") == before, "something was written")
    said = run(r, "--dry-run")
    check("a start would be refused" in said and "--restart" in said, said)
    check(contents("deleted/out") == before, "a dry run wrote")
    run(command(said, "save.proj_dir=deleted/out-2"), shell=True)
    run(command(said, "--restart"), shell=True)
    old = glob.glob("deleted/out/old-*")
    check(len(old) == 1, names("deleted/out"))
    moved = contents(old[0])
    for name in ("rwkv-0.pth", "rwkv-1.pth", "rwkv-final.pth", "rwkv-init.pth", "metrics.jsonl", "train_log.txt"):
        check(moved[name] == before[name], name, "is not what it was")


def cut_state_is_named():
    r = recipe("cut/r.yaml")
    run(r)
    os.truncate("cut/out/state-8.safetensors", 40000)
    shutil.copy("cut/out/rwkv-0.pth", "cut/out/state-9.safetensors")
    said = run(r, status=2)
    check("state-8.safetensors: cut short: 40000 of " in said, said)
    check("state-9.safetensors: metadata 'recipe' is missing; is this a training state?" in said, said)
    check("wget" not in said, said)
    check("cut/out holds 3 weights and 2 training states" in said, said)


def advice_of_a_download():
    """Only for what may have been one: not for a save of a run, whatever is wrong with it."""
    r = recipe("advice/r.yaml")
    run(r)
    os.makedirs("advice/model")
    for name in ("rwkv-final.pth", "state-8.safetensors"):
        whole = contents("advice/out")[name]
        middle = len(whole) // 2
        for damaged in (b"", whole[:100], whole[:middle], bytes(len(whole)),
                        whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1:]):
            for folder in ("advice/out/", "advice/model/model-"):
                with open(folder + name, "wb") as f:
                    f.write(damaged)
                said = run("inspect", "--verify", folder + name, status=1)
                advised = "download" in said or "wget" in said
                ours = folder == "advice/out/" or "resume from another state" in said  # that the state itself tells
                check(advised != ours, len(damaged), said)


def folder_of_the_scripts():
    """lua/, where scripts write, belongs to the run; one that was there before is the user's."""
    hook = "return { on_train_batch_end = function(t) t:append('log.csv', t.step .. '\\n') end }"
    for there in (False, True):
        r = recipe("scripts%d/r.yaml" % there)
        base = os.path.dirname(r)
        with open(base + "/h.lua", "w") as f:
            f.write(hook)
        if there:
            os.makedirs(base + "/out/lua")
            with open(base + "/out/lua/mine.lua", "w") as f:
                f.write("mine")
        words = r, "hooks=[%s/h.lua]" % base, "save.proj_dir=%s/out" % base
        run(*words)
        run(*words, "--restart")
        old = glob.glob(base + "/out/old-*")
        check(len(old) == 1 and os.path.exists(old[0] + "/rwkv-final.pth"), names(base + "/out"))
        with open(base + "/out/lua/log.csv") as f:
            lines = len(f.readlines())
        check(lines == (16 if there else 8), "there:", there, lines, "lines")
        check(os.path.exists(old[0] + "/lua/log.csv") != there, names(old[0]))
        check(os.path.exists(base + "/out/lua/mine.lua") == there, names(base + "/out"))


def other_numbers():
    """After a stop: the refusal prints the command that goes on, and it works."""
    r = recipe("numbers/r.yaml")
    run(r, "train.epoch_count=1")
    moments = contents("numbers/out")
    for change in ("train.lr_init=1e-5", "train.micro_bsz=2", "data.ctx_len=16", "train.schedule=cosine", "train.random_seed=7"):
        said = run(r, change, status=2)
        check(change.split("=")[0] + ": was " in said, said)
        way = command(said, "--resume numbers/out/state-4.safetensors")
        check(shlex.split(way) == [program, r, change, "--resume", "numbers/out/state-4.safetensors"], way)
        check(contents("numbers/out") == moments, "a refusal wrote something")
        shutil.copytree("numbers/out", "numbers/kept")
        said = run(way, shell=True)
        check("resuming from numbers/out/state-4.safetensors" in said and "done: 8 steps" in said, said)
        shutil.rmtree("numbers/out")
        os.rename("numbers/kept", "numbers/out")
    said = run(r, "model.dim_ffn=64", status=2)
    check("--resume" not in said and "--restart" in said, said)
    run(command(said, "save.proj_dir=numbers/out-2"), shell=True)


def other_data():
    """The same file with another content."""
    r = recipe("data/r.yaml")
    text = open(root + "/tests/cli/data.jsonl").read()
    with open("data/d.jsonl", "w") as f:
        f.write(text)
    run(r, "data.data_file=data/d.jsonl", "train.epoch_count=1")
    with open("data/d.jsonl", "a") as f:
        f.write(text)
    said = run(r, "data.data_file=data/d.jsonl", status=1)
    check("not the data that the saved run used" in said, said)
    said = run(command(said, "--resume data/out/state-4.safetensors"), shell=True)
    check("done: 8 steps" in said, said)


def files_of_the_user():
    """A recipe that came from elsewhere and points into a folder of the user's."""
    r = recipe("mine/r.yaml", "mymodel")
    run(r)
    with open("mine/mymodel/notes.tmp-99999", "w") as f:
        f.write("mine")
    before = contents("mine/mymodel")
    stranger = recipe("mine/dl/r.yaml", "../mymodel", ", keep: 1")
    for words in ((), ("--resume", "never")):
        os.chdir("mine")  # else the recipe may not even name that folder
        said = run("dl/r.yaml", *words, status=2)
        os.chdir("..")
        check("belongs to the runs of another recipe, " + os.path.realpath(r) in said, said)
        check(contents("mine/mymodel") == before, "something was written")
    os.remove("mine/mymodel/.rwkv-run")  # a folder from before there were claims
    os.chdir("mine")
    said = run("dl/r.yaml", "model.n_layer=3", status=2)
    check("model.n_layer: was 2, now 3" in said, said)
    os.chdir("..")
    os.makedirs("mine/plain")
    with open("mine/plain/plan.yaml", "w") as f:
        f.write("my own plan")
    with open("mine/plain/thesis.txt", "w") as f:
        f.write("years")
    plain = recipe("mine/plain.yaml", "plain")
    run(plain, status=2)
    check(contents("mine/plain") == {"plan.yaml": b"my own plan", "thesis.txt": b"years"}, names("mine/plain"))
    os.remove("mine/plain/plan.yaml")
    said = run(plain, status=2)
    check("'thesis.txt'" in said, said)
    run(plain, "save.proj_dir=mine/plain")  # who types it means it
    check(open("mine/plain/thesis.txt").read() == "years", "the user's file changed")


def old_folder_counts():
    """Without a claim, when its newest state matches; then what it holds is this run's."""
    r = recipe("old/r.yaml")
    run(r, "train.epoch_count=1")
    os.remove("old/out/.rwkv-run")
    said = run(r, "save.keep=1")
    check("resuming from old/out/state-4.safetensors" in said, said)
    check(not os.path.exists("old/out/rwkv-0.pth"), "save.keep=1 kept", names("old/out"))


def retention_is_its_own():
    r = recipe("keep/r.yaml", more=", keep: 1, every: 1")
    with open("keep/stop.lua", "w") as f:
        f.write("return { on_train_batch_end = function(t) if t.step == 0 then t:stop('x') end end }")
    run(r, "hooks=[keep/stop.lua]")
    for name in ("rwkv-77.pth", "state-99.safetensors", "rwkv-1.pth", "notes.tmp-99999", "rwkv-1.pth.tmp-99999"):
        with open("keep/out/" + name, "w") as f:
            f.write("mine")
    said = run(r)
    kept = contents("keep/out")
    for name in ("rwkv-77.pth", "state-99.safetensors", "notes.tmp-99999"):
        check(kept.get(name) == b"mine", name, "is gone:", names("keep/out"))
    check("rwkv-1.pth.tmp-99999" not in kept, names("keep/out"))
    moved = glob.glob("keep/out/old-*/rwkv-1.pth")
    check(len(moved) == 1 and open(moved[0]).read() == "mine", "a file of the user was overwritten", names("keep/out"))
    check("rwkv-1.pth is not of this run; it is now in" in said, said)


def state_into_another_folder():
    r = recipe("into/r.yaml")
    run(r, "train.epoch_count=1")
    run(r, "save.proj_dir=into/full", "train.epoch_count=1")
    before = contents("into/full")
    said = run(r, "save.proj_dir=into/full", "--resume", "into/out/state-4.safetensors", status=2)
    check("nothing is overwritten" in said and contents("into/full") == before, said)
    run(r, "save.proj_dir=into/new", "--resume", "into/out/state-4.safetensors")
    said = run(r, "--restart", "--resume", "into/out/state-4.safetensors", status=2)
    check("leave --resume out" in said, said)


if __name__ == "__main__":
    tests = (second_run_is_refused, killed_run_frees_the_folder, deleted_state_keeps_weights, cut_state_is_named,
             advice_of_a_download, folder_of_the_scripts, other_numbers, other_data, files_of_the_user, old_folder_counts, retention_is_its_own,
             state_into_another_folder)
    for test in tests:
        if not sys.argv[1:] or test.__name__ in sys.argv[1:]:
            test()
            print(test.__name__)
    os.chdir("/")
