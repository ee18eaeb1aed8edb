"""Ids that the model has not are found before the first step, and written about nothing; in a file above 4 GiB while
training runs. What a large file holds is remembered. `inspect` shows the largest id."""

import array
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile

PROGRAM = os.environ["RWKV_RUN"]
CACHE = "cache/rwkv-run/largest-ids"

RECIPE = """
name: ids
device: cpu
model: { arch: x060, n_layer: 2, n_embd: 32, head_size: 32, vocab_size: 257 }
data: { data_type: binidx, data_file: %s, ctx_len: 8 }
train: { micro_bsz: 1, epoch_steps: %d, epoch_count: 1, precision: fp32 }
save: { proj_dir: out-%s }
log: { every: 1000000 }
"""


def write_index(name, code, sizes):
    item = {4: 4, 8: 2}[code]
    pointers = [sum(sizes[:i]) * item for i in range(len(sizes))]
    with open(name + ".idx", "wb") as f:
        f.write(b"MMIDIDX\0\0" + struct.pack("<QBQQ", 1, code, len(sizes), len(sizes) + 1))
        f.write(struct.pack(f"<{len(sizes)}i", *sizes) + struct.pack(f"<{len(sizes)}q", *pointers))
        f.write(struct.pack(f"<{len(sizes) + 1}q", *range(len(sizes) + 1)))


def write_pair(name, ids, code=8):
    write_index(name, code, [len(ids)])
    with open(name + ".bin", "wb") as f:
        array.array({4: "i", 8: "H"}[code], ids).tofile(f)


def write_sparse(name, n_bytes, bad_at=None):
    """Zeros, of which the disk keeps none; one id 300 at byte `bad_at`."""
    half = n_bytes // 4
    write_index(name, 8, [half, n_bytes // 2 - half])
    with open(name + ".bin", "wb") as f:
        f.truncate(n_bytes)
        if bad_at is not None:
            f.seek(bad_at)
            f.write(struct.pack("<H", 300))


def run(*args):
    env = {**os.environ, "RWKV_LANG": "en", "RWKV_THREADS": "1", "XDG_CACHE_HOME": os.path.abspath("cache")}
    done = subprocess.run([PROGRAM, *args], env=env, capture_output=True, text=True, timeout=250)
    return done.returncode, done.stdout + done.stderr


def train(data, steps=2):
    shutil.rmtree(f"out-{data}", ignore_errors=True)
    with open("recipe.yaml", "w") as f:
        f.write(RECIPE % (data, steps, data))
    return run("recipe.yaml")


def check(what, good, said):
    if not good:
        sys.exit(f"FAIL: {what}\n{said}")


def refused_before_anything_is_written():
    for code in (8, 4):
        write_pair("bad", [7] * 31234 + [300] + [8] * 268765, code)
        status, said = train("bad")
        check("a bad id", status == 1 and "bad: token 31234 has the id 300, but the model's vocab_size is 257" in said, said)
        check("nothing is written", not os.path.exists("out-bad"), said)
    write_pair("negative", [1, 2, 3] * 10 + [-5] + [1] * 10, 4)
    status, said = train("negative")
    check("a negative id", status == 1 and "token 30 is -5, but ids are never negative" in said, said)
    check("the largest id", run("inspect", "bad.idx")[1].endswith("largest id: 300; model.vocab_size must be above it\n"),
          run("inspect", "bad.idx"))
    check("a negative one has no largest", run("inspect", "negative.idx")[0] == 1, "")
    write_pair("good", list(range(257)) * 4)
    check("all below", train("good")[0] == 0, train("good"))


def held_out_data_too():
    write_pair("held", [1] * 40 + [257])
    status, said = run("recipe.yaml", "data.valid_file=held", "save.proj_dir=out-held")
    check("a bad id in valid_file", status == 1 and "held: token 40 has the id 257" in said, said)
    check("nothing is written", not os.path.exists("out-held"), said)


def remembered():
    check("a small file is not remembered", not os.path.exists(CACHE), "")
    write_sparse("large", 80 << 20)
    check("a large file", train("large")[0] == 0, train("large"))
    line = open(CACHE).read()
    check("one line", re.fullmatch(r"[0-9a-f]+ [0-9a-f]+ 83886080 \d+\.\d{9} 2 0\n", line), line)
    # Known: what the memory says is believed, and the first id above it is looked for.
    with open(CACHE, "w") as f:
        f.write(line.replace(" 0\n", " 299\n"))
    check("inspect believes it", "largest id: 299" in run("inspect", "large.bin")[1], run("inspect", "large.bin"))
    check("a wrong memory stops nothing", train("large")[0] == 0, "")
    with open("large.bin", "r+b") as f:  # another file now
        f.seek(1000)
        f.write(struct.pack("<H", 300))
    status, said = train("large")
    check("a changed file is read again", status == 1 and "large: token 500 has the id 300" in said, said)
    with open(CACHE, "w") as f:
        f.write("nonsense\n\0\xff" * 10)
    check("a broken memory is none", train("large")[0] == 1, said)


def in_the_background():
    size = (4 << 30) + (8 << 20)
    write_sparse("huge", size, bad_at=size - 4)
    status, said = train("huge", steps=10_000_000)
    check("found while it trains", status == 1 and f"huge: token {size // 2 - 2} has the id 300" in said, said)
    check("saved", any(n.startswith("state-") for n in os.listdir("out-huge")), os.listdir("out-huge"))


with tempfile.TemporaryDirectory() as work:
    os.chdir(work)
    refused_before_anything_is_written()
    held_out_data_too()
    remembered()
    in_the_background()
print("ids: what the model has not is found")
