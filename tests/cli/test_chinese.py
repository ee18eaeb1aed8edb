#!/usr/bin/env python3
"""With RWKV_LANG=zh everything that a user meets is Chinese: each line of the plan, of training, of the results and of the
errors has a Chinese character, but for tables of tensors, metadata of files, and what Lua itself says."""
import os, re, subprocess, sys, tempfile

PROGRAM = os.path.abspath(os.environ["RWKV_RUN"])
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
RECIPE = """device: cpu
model: { arch: x060, n_layer: 2, n_embd: 64 }
data: { data_type: jsonl, data_file: data.jsonl, valid_file: data.jsonl, tokenizer: byte, ctx_len: 16 }
train: { micro_bsz: 1, epoch_steps: 3, eval_batches: 1 }
save: { proj_dir: out }
"""
NAMES = r"  \S.*\[[0-9, ]*\]$|  [a-z_]+: \S|\t\S|$"  # tensors, metadata, lines of Lua's stack
NAMES += r"|    \S*rwkv-run "  # commands to copy


def run(*arguments):
    env = dict(os.environ, RWKV_LANG="zh", RWKV_THREADS="1")
    done = subprocess.run([PROGRAM, *arguments], env=env, capture_output=True)
    said = (done.stdout + done.stderr).decode(errors="replace")
    return ["%s: %s" % (" ".join(arguments), line) for line in said.split("\n")
            if not re.search("[\u4e00-\u9fff]", line) and not re.match(NAMES, line)]


def main():
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for name, text in {"r.yaml": RECIPE, "t.jsonl": '{"text": "ab"}\n{"text": ""}\n', "broken.pth": "no",
                           "h.lua": "return { on_train_batch_end = function(t) t:stop('够了') end }",
                           "wrong.lua": "return { on_train_batch_end = function(t) error(rwkv.message('a script')) end }",
                           "name.lua": "return { on_train_batch_ned = function() end }"}.items():
            with open(name, "w") as f:
                f.write(text)
        with open(os.path.join(ROOT, "tests/cli/data.jsonl")) as f, open("data.jsonl", "w") as g:
            g.write(f.read())
        english = run("r.yaml", "--dry-run") + run("r.yaml") + run("r.yaml", "train.lr_init=1")
        english += run("r.yaml", "save.proj_dir=o2", "hooks=[h.lua]")
        english += run("r.yaml", "save.proj_dir=o3", "hooks=[wrong.lua]") + run("r.yaml", "save.proj_dir=o4", "hooks=[name.lua]")
        english += run("r.yaml", "save.proj_dir=o5", "device=cuda") + run("r.yaml", "save.proj_dir=o6", "x=1")
        english += run("tokenize", "t.jsonl", "t", "--tokenizer", "byte")
        english += run("inspect", "t_text_document.idx") + run("inspect", "out/rwkv-final.pth")
        english += run("inspect", "out/state-3.safetensors") + run("inspect", "broken.pth") + run("inspect", "none.pth")
        english += run("generate", "broken.pth", "--prompt", "a") + run("generate") + run("none.yaml") + run("--frob")
        os.chdir("/")
    print("\n".join(english) if english else "every line is Chinese")
    return 1 if english else 0


sys.exit(main())
