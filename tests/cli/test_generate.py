#!/usr/bin/env python3
"""generate: what a model says cannot steer a terminal; a file or a pipe gets the bytes as they are.

The model is one of bytes that was not trained: it says all of them, ESC and C1 and what is no UTF-8 among them."""
import os
import pty
import subprocess
import sys
import tempfile
import tty

PROGRAM = os.path.abspath(os.environ["RWKV_RUN"])
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
ENVIRONMENT = dict(os.environ, RWKV_THREADS="1")
RECIPE = """device: cpu
model: { arch: x060, n_layer: 2, n_embd: 32, head_size: 32 }
data: { data_type: jsonl, data_file: %s/tests/cli/data.jsonl, tokenizer: byte, ctx_len: 8 }
train: { micro_bsz: 1, epoch_steps: 1 }
save: { proj_dir: out }
""" % ROOT
PROMPT = "\x1b]0;title\x07 \u009b31m 你好\t\n"


def command(seed):
    return [PROGRAM, "generate", "out/rwkv-init.pth", "--prompt", PROMPT, "--tokens", "300", "--seed", str(seed)]


def on_terminal(words):
    """What a terminal gets, of which the driver changes nothing."""
    ours, its = pty.openpty()
    tty.setraw(its)
    process = subprocess.Popen(words, env=ENVIRONMENT, stdout=its, stderr=subprocess.PIPE)
    os.close(its)
    said = b""
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:  # the other side is closed
            break
        if not piece:
            break
        said += piece
    os.close(ours)
    return process.wait(), said


def is_control(c):
    o = ord(c)
    return o < 0x20 or 0x7f <= o < 0xa0 or 0x2028 <= o <= 0x202e or 0x2066 <= o <= 0x2069


def escaped(raw):
    """As core/base/printable.h says."""
    out = ""
    for c in raw.decode("utf-8", "surrogateescape"):
        o = ord(c)
        if 0xdc80 <= o <= 0xdcff:
            out += "\\x%02x" % (o - 0xdc00)
        elif is_control(c) and c not in "\n\t":
            out += "\\r" if c == "\r" else "\\x%02x" % o if o < 0x80 else "\\u%04x" % o
        else:
            out += c
    return out


def main():
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        with open("r.yaml", "w") as f:
            f.write(RECIPE)
        subprocess.run([PROGRAM, "r.yaml"], env=ENVIRONMENT, check=True, capture_output=True)
        problems = []
        for seed in range(20):
            raw = subprocess.run(command(seed), env=ENVIRONMENT, check=True, capture_output=True).stdout
            status, said = on_terminal(command(seed))
            if not raw.startswith(PROMPT.encode()):
                problems.append("a pipe does not get the bytes: %r" % raw[:80])
            text = said.decode(errors="replace")
            if status != 0 or text != escaped(raw):
                problems.append("seed %d, status %d:\n%r\n%r" % (seed, status, text, escaped(raw)))
        os.chdir("/")
    print("\n".join(problems) if problems else "20 texts, escaped on a terminal and raw in a pipe")
    return 1 if problems else 0


sys.exit(main())
