#!/usr/bin/env python3
"""README.md and README.zh.md, pasted line by line: all ```sh blocks of a file run in one shell, its ```yaml blocks make a plan.

What they download is stood in for: `git clone` by a copy of this tree with the built program, `wget` by a tiny model and
a vocabulary of single bytes under the names of the files. The quickstart takes 20 steps, and installs and builds
nothing."""
import os, re, shutil, subprocess, sys, tempfile

PROGRAM = os.path.abspath(os.environ["RWKV_RUN"])
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
FILES = {"README.md": "en", "README.zh.md": "zh"}
WRITES = ["my.yaml", "output/rwkv-final.pth", "output-2/rwkv-final.pth", "recipes/quickstart/output/rwkv-final.pth"]

STUBS = {
    "git": """[ "$1" = clone ] || exit 1
case $2 in https://*) cp -r "$STAND_IN/tree" "$3" ;; *) echo "git clone $2" >&2; exit 1 ;; esac""",
    "wget": """while [ $# -gt 0 ]; do case $1 in -c) ;; -P) shift; folder=$1 ;; https://*) url=$1 ;; *) exit 1 ;; esac; shift; done
case ${url##*/} in
*.pth) cp "$STAND_IN/tiny.pth" "$folder/${url##*/}" ;;
rwkv_vocab_v20230424.txt) cp "$STAND_IN/vocab.txt" "$folder/${url##*/}" ;;
*) echo "wget $url" >&2; exit 1 ;;
esac""",
}


def write(path, text, mode=0o644):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as f:
        f.write(text)
    os.chmod(path, mode)


def read(path):
    with open(path, encoding="utf-8") as f:
        return f.read()


def blocks(text, language):
    return re.findall(r"^```%s\n(.*?)^```$" % language, text, re.S | re.M)


def make_tree(stand_in):
    """A clone that is built already."""
    tree = os.path.join(stand_in, "tree")
    shutil.copytree(os.path.join(ROOT, "recipes"), os.path.join(tree, "recipes"), ignore=shutil.ignore_patterns("output*"))
    os.makedirs(os.path.join(tree, "build/release"))
    os.symlink(PROGRAM, os.path.join(tree, "build/release/rwkv-run"))
    quickstart = os.path.join(tree, "recipes/quickstart")
    setup = os.path.join(quickstart, "setup.sh")
    write(setup, read(setup) + "\nrw_install_packages() { :; }\nrw_build() { :; }\n")
    recipe = os.path.join(quickstart, "recipe.yaml")
    short, n = re.subn(r"epoch_steps: *\d+", "epoch_steps: 20", read(recipe))
    assert n == 1
    write(recipe, short)
    questions = os.path.join(quickstart, "data/prompts.tsv")
    write(questions, "".join(read(questions).splitlines(True)[:14]))  # run.sh asks the first, the fifth, the fourteenth


def make_downloads(stand_in):
    lines = []
    for byte in range(256):
        lines.append("%d %s 1\n" % (byte + 1, repr(chr(byte)) if byte < 128 else repr(bytes([byte]))))
    write(os.path.join(stand_in, "vocab.txt"), "".join(lines))
    write(os.path.join(stand_in, "tiny.yaml"), """
model: { arch: x070, n_layer: 2, n_embd: 64, vocab_size: 260 }
data: { data_type: jsonl, data_file: %s/tests/cli/data.jsonl, tokenizer: byte, ctx_len: 16 }
train: { micro_bsz: 1, epoch_steps: 1 }
save: { proj_dir: tiny }
""" % ROOT)
    subprocess.run([PROGRAM, "tiny.yaml", "device=cpu"], cwd=stand_in, check=True, capture_output=True)
    os.rename(os.path.join(stand_in, "tiny/rwkv-final.pth"), os.path.join(stand_in, "tiny.pth"))


def problems_of(name, stand_in, work):
    text = read(os.path.join(ROOT, name))
    shell = "\n".join(blocks(text, "sh"))
    shell = re.sub(r"git clone <[^>]*>", "git clone https://example.org/rwkv-run", shell)  # the one thing to fill in
    env = dict(os.environ, STAND_IN=stand_in, PATH=os.path.join(stand_in, "bin") + ":" + os.environ["PATH"],
               RWKV_LANG=FILES[name], RWKV_THREADS="2")
    env.pop("RWKV_VOCAB", None)
    done = subprocess.run(["bash", "-e", "-c", shell], cwd=work, env=env, capture_output=True, text=True)
    if done.returncode != 0:
        return ["status %d: %s" % (done.returncode, (done.stdout + done.stderr)[-1500:])]
    tree = os.path.join(work, "rwkv-run")
    problems = ["%s was not written" % path for path in WRITES if not os.path.exists(os.path.join(tree, path))]
    env["RWKV_VOCAB"] = os.path.join(tree, "data/rwkv_vocab_v20230424.txt")
    for i, recipe in enumerate(blocks(text, "yaml")):
        write(os.path.join(tree, "block%d.yaml" % i), recipe)
        done = subprocess.run([PROGRAM, "block%d.yaml" % i, "--dry-run", "save.proj_dir=block"], cwd=tree, env=env,
                              text=True, capture_output=True)
        if done.returncode != 0:
            problems.append("recipe %d: %s" % (i, done.stderr))
    return problems


def main():
    problems = []
    with tempfile.TemporaryDirectory() as stand_in:
        make_tree(stand_in)
        make_downloads(stand_in)
        for stub, body in STUBS.items():
            write(os.path.join(stand_in, "bin", stub), "#!/bin/sh\n" + body + "\n", 0o755)
        for name in FILES:
            with tempfile.TemporaryDirectory() as work:
                problems += ["%s: %s" % (name, p) for p in problems_of(name, stand_in, work)]
    print("\n".join(problems) if problems else "both READMEs run as they stand")
    return 1 if problems else 0


sys.exit(main())
