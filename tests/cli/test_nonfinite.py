"""NaN and Infinity: found in a model that is loaded, not made by a save, never printed as text."""

import glob
import os
import struct
import subprocess
import sys
import tempfile
import zipfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PROGRAM = os.environ["RWKV_RUN"]

RECIPE = f"""
name: nonfinite
device: cpu
model: {{ arch: x060, n_layer: 2, n_embd: 32, head_size: 32 }}
data: {{ data_type: jsonl, data_file: {ROOT}/tests/cli/data.jsonl, tokenizer: byte, ctx_len: 8 }}
train: {{ micro_bsz: 1, epoch_steps: 4, epoch_count: 2, precision: fp32, lr_init: 0, lr_final: 0 }}
save: {{ epoch_save: 1 }}
"""


def run(*args):
    env = {**os.environ, "RWKV_LANG": "en", "RWKV_THREADS": "1"}
    done = subprocess.run([PROGRAM, *args], env=env, capture_output=True, timeout=100)
    return done.returncode, (done.stdout + done.stderr).decode("utf-8", "replace")


def train(out, *args):
    return run("recipe.yaml", f"save.proj_dir={out}", *args)


def check(what, good, said):
    if not good:
        sys.exit(f"FAIL: {what}\n{said}")


def poke(source, target, tensor_bytes, element, value):
    """A copy of the .pth in which one float of the only record of that size is another."""
    with zipfile.ZipFile(source) as a, zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as b:
        found = [n for n in a.namelist() if "/data/" in n and a.getinfo(n).file_size == tensor_bytes]
        for name in a.namelist():
            data = bytearray(a.read(name))
            if name == found[0]:
                data[4 * element : 4 * element + 4] = struct.pack("<f", value)
            b.writestr(name, bytes(data))


EMB = 4 * 257 * 32  # emb.weight comes first; head.weight has the same size


def a_model_with_nan():
    check("a good model", run("generate", "base/rwkv-final.pth", "--prompt", "a", "--tokens", "3")[0] == 0, "")
    for value, word in ((float("nan"), "NaN"), (float("-inf"), "Infinity")):
        poke("base/rwkv-final.pth", "bad.pth", EMB, 70, value)
        names = f"bad.pth: tensor 'emb.weight' has {word} at element 70"
        status, said = run("generate", "bad.pth", "--prompt", "a", "--tokens", "3")
        check("generate refuses it", status == 1 and names in said, said)
        status, said = train("loaded", "model.load_model=bad.pth")
        check("training refuses it", status == 1 and names in said and "model.allow_nonfinite: true" in said, said)
    poke("base/rwkv-final.pth", "bad.pth", EMB, 32 * 33 + 1, float("nan"))  # the byte of a space: in the data
    status, said = train("allowed", "model.load_model=bad.pth", "model.allow_nonfinite=true", "train.skip_nonfinite=3")
    check("loaded all the same", "loss nan" in said and "-nan" not in said, said)


def a_state_with_nan():
    state = glob.glob("base/state-*.safetensors")[0]
    with open(state, "rb") as f:
        data = bytearray(f.read())
    begin = 8 + struct.unpack("<Q", data[:8])[0]
    data[begin + 4 * 5 : begin + 4 * 6] = struct.pack("<f", float("nan"))
    with open("bad.safetensors", "wb") as f:
        f.write(data)
    check("checksums of a state", run("inspect", "--verify", state)[1].rstrip().endswith("records are right"), "")
    check("and of a model", "verified: " in run("inspect", "--verify", "base/rwkv-final.pth")[1], "")
    check("a flipped bit is seen", run("inspect", "--verify", "bad.safetensors")[0] == 1, "")
    status, said = train("resumed", "--resume", "bad.safetensors", "train.epoch_count=3")
    check("a resume refuses it", status == 1 and "bad.safetensors: " in said and ("element 5" in said or "damaged" in said), said)
    left = [n for n in os.listdir("resumed") if n.startswith(("rwkv", "state"))] if os.path.isdir("resumed") else []
    check("what is half loaded is not saved", not left, left)


def logits_that_overflow():
    poke("base/rwkv-final.pth", "huge.pth", 4 * 32, 3, 3e38)  # a norm's weight
    status, said = run("generate", "huge.pth", "--prompt", "a b", "--tokens", "3")
    check("an error, not text", status == 1 and "the model's logits are not finite" in said, (status, said))


def a_save_that_overflows():
    poke("base/rwkv-final.pth", "large.pth", EMB, 70, 7e4)
    status, said = train("fp16", "model.load_model=large.pth", "save.dtype=fp16")
    check("status 1 at the end", status == 1 and "done: 8 steps" in said, said)
    check("named", "fp16/rwkv-0.pth is not written: tensor 'emb.weight' has the value 70000, which becomes infinite as f16" in said, said)
    check("counted", "3 of the .pth files could not be written; the weights are in the training state in fp16, and the same command with save.dtype=fp32 writes" in said, said)
    check("no .pth, the states", sorted(n for n in os.listdir("fp16") if n.startswith(("rwkv", "state"))) == ["state-8.safetensors"], os.listdir("fp16"))
    status, said = train("fp16", "model.load_model=large.pth", "save.dtype=fp32")
    check("written from the state", status == 0 and os.path.exists("fp16/rwkv-final.pth"), said)
    for dtype, value in (("bf16", 7e4), ("fp16", 65519.0)):
        poke("base/rwkv-final.pth", "large.pth", EMB, 70, value)
        status, said = train(f"fits-{dtype}", "model.load_model=large.pth", f"save.dtype={dtype}")
        check(f"{value} fits {dtype}", status == 0 and os.path.exists(f"fits-{dtype}/rwkv-final.pth"), said)
    poke("base/rwkv-final.pth", "large.pth", EMB, 70, 3.4e38)
    status, said = train("bf16", "model.load_model=large.pth", "save.dtype=bf16")
    check("too large for bf16", status == 1 and "has the value 3.4e+38, which becomes infinite as bf16" in said, said)


with tempfile.TemporaryDirectory() as work:
    os.chdir(work)
    with open("recipe.yaml", "w") as f:
        f.write(RECIPE)
    check("the model to begin with", train("base")[0] == 0, "")
    a_model_with_nan()
    a_state_with_nan()
    logits_that_overflow()
    a_save_that_overflows()
print("nonfinite: loaded, saved and printed as it should be")
