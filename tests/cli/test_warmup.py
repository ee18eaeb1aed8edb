"""A warm-up longer than the run is a warning that says the learning rate which the run then really has."""

import json
import os
import re
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PROGRAM = os.environ["RWKV_RUN"]

RECIPE = f"""
name: warmup
device: cpu
model: {{ arch: x060, n_layer: 2, n_embd: 32, head_size: 32 }}
data: {{ data_type: jsonl, data_file: {ROOT}/tests/cli/data.jsonl, tokenizer: byte, ctx_len: 8 }}
train: {{ micro_bsz: 1, epoch_steps: 5, epoch_count: 2, precision: fp32, lr_init: 1e-4, lr_final: 1e-6 }}
save: {{ proj_dir: out }}
"""
WARNING = r"train\.warmup_steps is (\d+), but the run has 10 steps: the learning rate rises to (\S+) and never to lr_init, which is 0\.0001"


def run(*args):
    env = {**os.environ, "RWKV_LANG": "en", "RWKV_THREADS": "1"}
    done = subprocess.run([PROGRAM, "recipe.yaml", *args], env=env, capture_output=True, text=True, timeout=120)
    if done.returncode:
        sys.exit(f"FAIL: {args}: {done.stderr}")
    return done.stderr


def largest_lr(folder):
    with open(f"{folder}/metrics.jsonl") as f:
        return max(row["lr"] for row in map(json.loads, f) if "lr" in row and row.get("event") == "step")


with tempfile.TemporaryDirectory() as work:
    os.chdir(work)
    with open("recipe.yaml", "w") as f:
        f.write(RECIPE)
    for i, args in enumerate((["train.warmup_steps=50"], ["train.warmup_steps=1000", "train.schedule=cosine"],
                              ["train.warmup_steps=10", "train.lr_final=1e-4"])):
        said = run(*args, f"save.proj_dir=out{i}")
        found = re.search(WARNING, said)
        if not found or abs(float(found[2]) / largest_lr(f"out{i}") - 1) > 1e-4:
            sys.exit(f"FAIL: {args}: largest lr {largest_lr(f'out{i}')}\n{said}")
        if not re.search(WARNING, run(*args, "--dry-run")):
            sys.exit("FAIL: --dry-run does not warn")
    for args in (["train.warmup_steps=9"], []):
        if "warmup" in run(*args, "--dry-run"):
            sys.exit(f"FAIL: {args} warns")
    with open("count.lua", "w") as f:
        f.write("local n = 0\nreturn { lr = function() n = n + 1; assert(n <= 10, 'asked too often'); return 1e-3 end }\n")
    if "the warm-up does not end" not in run("train.warmup_steps=50", "hooks=[count.lua]", "save.proj_dir=hook"):
        sys.exit("FAIL: no warning beside a hook")
print("warmup: the warning names the lr that is used")
