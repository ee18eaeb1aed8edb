"""The largest value of each key, alone, in pairs of sizes, and all at once: a plan or an error within a second, and no
number in it that has overflowed."""

import itertools
import json
import os
import re
import resource
import struct
import subprocess
import sys
import tempfile
import zipfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PROGRAM = os.environ["RWKV_RUN"]
SECONDS = 1 if "debug" not in PROGRAM else 20  # sanitizers take their time

RECIPE = f"""
name: largest
device: cpu
model: {{ arch: ARCH, n_layer: 2, n_embd: 32, head_size: 32 }}
data: {{ data_type: jsonl, data_file: {ROOT}/tests/cli/data.jsonl, tokenizer: byte, ctx_len: 8 }}
train: {{ micro_bsz: 1, epoch_steps: 4, epoch_count: 3, precision: fp32 }}
save: {{ proj_dir: out }}
"""
SIZES = ["model.n_layer", "model.n_embd", "model.vocab_size", "model.dim_ffn", "data.ctx_len", "train.micro_bsz",
         "train.accumulate", "train.epoch_steps", "train.epoch_count"]


def largest_values():
    schema = json.loads(subprocess.run([PROGRAM, "--schema"], capture_output=True, check=True).stdout)
    for section, content in schema["properties"].items():
        for key, rule in content.get("properties", {}).items():
            if rule.get("type") == "integer":
                yield f"{section}.{key}", str(rule["maximum"])
            elif rule.get("type") == "number":
                yield f"{section}.{key}", "1e308" if "exclusiveMaximum" not in rule else "0.9999999999999999"


def used():
    """Seconds of the processor that ended children took: others may use it too."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return children.ru_utime + children.ru_stime


def plan(arch, values):
    env = {**os.environ, "RWKV_LANG": "en", "RWKV_THREADS": "1"}
    with open("recipe.yaml", "w") as f:
        f.write(RECIPE.replace("ARCH", arch))
    args = [f"{k}={v}" for k, v in values.items()]
    began = used()
    done = subprocess.run([PROGRAM, "recipe.yaml", "--dry-run", *args], env=env, capture_output=True, text=True,
                          timeout=120)
    seconds = used() - began
    said = done.stdout + done.stderr
    wrong = seconds >= SECONDS or done.returncode not in (0, 1, 2) or "runtime error" in said
    wrong = wrong or re.search(r"[ :(]-\d|\b\d{19}|\bnan\b|step arena of", said) or (done.returncode and not re.search("recipe|command line", said))
    if wrong:
        bad.append(f"FAIL: {arch} {args}: status {done.returncode}, {seconds:.2f} s\n{said}")


def state_of_largest_counts():
    """A saved run whose counts are changed: refused, not added to."""
    run = lambda *args: subprocess.run([PROGRAM, "recipe.yaml", *args], capture_output=True, text=True, timeout=120,
                                       env={**os.environ, "RWKV_LANG": "en", "RWKV_THREADS": "1"})
    with open("recipe.yaml", "w") as f:
        f.write(RECIPE.replace("ARCH", "x060"))
    run()
    data = open("out/state-12.safetensors", "rb").read()
    n = struct.unpack("<Q", data[:8])[0]
    for key in ("step", "tokens", "updates", "skipped", "epoch_loss_n"):
        head = re.sub(rb'(\\"%s\\":)\d+' % key.encode(), rb"\g<1>9223372036854775807", data[8 : 8 + n])
        assert head != data[8 : 8 + n]
        with open("changed.safetensors", "wb") as f:
            f.write(struct.pack("<Q", len(head)) + head + data[8 + n :])
        done = run("--resume", "changed.safetensors", "save.proj_dir=other")
        if done.returncode != 1 or "metadata 'progress' has no valid step" not in done.stderr:
            bad.append(f"FAIL: {key} of 2^63-1: status {done.returncode}\n{done.stderr}")


def views_of_largest_sizes():
    """40 tensors of 2^58 elements, each the same one again: their sum is beyond 64 bits."""
    text = lambda s: b"X" + struct.pack("<I", len(s)) + s
    storage = b"(" + text(b"storage") + b"ctorch\nFloatStorage\n" + text(b"0") + text(b"cpu") + b"K\x01tQ"
    size = b"\x8a\x08" + struct.pack("<q", 1 << 58) + b"\x85"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\0" + size + b"K\0\x85\x89NtR"
    items = b"".join(text(b"w%d" % i) + tensor for i in range(40))
    with zipfile.ZipFile("views.pth", "w") as z:
        z.writestr("views/data.pkl", b"\x80\x02}(" + items + b"u.")
        z.writestr("views/data/0", b"\0\0\0\0")
    done = subprocess.run([PROGRAM, "inspect", "views.pth"], capture_output=True, text=True)
    if done.returncode or "9,223,372,036,854,775,807 elements" not in done.stdout or "runtime error" in done.stderr:
        bad.append(f"FAIL: views\n{done.stdout[:300]}{done.stderr}")


bad = []
with tempfile.TemporaryDirectory() as work:
    os.chdir(work)
    largest = dict(largest_values())
    assert set(SIZES) < set(largest)
    for key, value in largest.items():
        plan("x060", {key: value})
    for a, b in itertools.combinations(SIZES, 2):
        plan("x070" if a == "model.n_layer" else "x060", {a: largest[a], b: largest[b]})
    sizes = {key: largest[key] for key in SIZES}
    for arch in ("x052", "x060", "x070"):
        plan(arch, sizes)
        plan(arch, {**largest, "model.head_qk": "0"})
        plan(arch, largest)
    state_of_largest_counts()
    views_of_largest_sizes()
if bad:
    sys.exit("\n".join(bad))
print(f"largest: {len(largest)} keys, answers within {SECONDS} s")
