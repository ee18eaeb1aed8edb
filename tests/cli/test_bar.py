#!/usr/bin/env python3
"""The progress bar on terminals of several widths: no line wraps, the time left is whole, at 80 columns and more there is
a bar beside val_loss, and after 'done' nothing is drawn again."""
import fcntl, os, pty, re, struct, subprocess, sys, tempfile, termios, unicodedata

PROGRAM = os.environ["RWKV_RUN"]
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
RECIPE = """
name: bar
device: cpu
model: { arch: x060, n_layer: 2, n_embd: 32, head_size: 32 }
data: { data_type: jsonl, data_file: %(data)s, valid_file: %(data)s, tokenizer: byte, ctx_len: 8 }
train: { micro_bsz: 1, epoch_steps: 60, epoch_count: 20, eval_every: 20, eval_batches: 1, precision: fp32 }
save: { proj_dir: out, epoch_save: 0 }
""" % {"data": os.path.join(ROOT, "tests/cli/data.jsonl")}


def run(columns, language, folder):
    with open(os.path.join(folder, "bar.yaml"), "w") as f:
        f.write(RECIPE)
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    env = dict(os.environ, RWKV_LANG=language, TERM="xterm", RWKV_THREADS="1")
    process = subprocess.Popen([PROGRAM, "bar.yaml", "save.proj_dir=out%d%s" % (columns, language)], cwd=folder, env=env,
                               stdin=slave, stdout=slave, stderr=slave)
    os.close(slave)
    said = b""
    while True:
        try:
            piece = os.read(master, 65536)
        except OSError:
            break
        if not piece:
            break
        said += piece
    os.close(master)
    return process.wait(), said.decode()


def width(text):
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def check(columns, language, status, said):
    """What is drawn begins with a return and the erasing of the line; everything else is a line of its own."""
    problems = []
    left, done = {"en": ("left ", "done: 1200 steps"), "zh": ("剩余 ", "完成：共 1200 步")}[language]
    body = said[said.rindex("out%d%s/rwkv-init.pth" % (columns, language)):]
    drawn = [d for d in re.findall(r"\r\x1b\[K([^\r\n]*)", body) if left in d]
    if status != 0:
        problems.append("status %d: %s" % (status, said[-300:]))
    if len(drawn) < 2:
        problems.append("the bar was drawn %d times" % len(drawn))
    for d in drawn:
        if width(d + "^C") >= columns:
            problems.append("%d columns wide, without ^C: %s" % (width(d), d))
        if not re.search(left + r"(\d+h \d\dm|\d+m \d\ds|\d+\.\ds)$", d):
            problems.append("the time left is not whole: %s" % d)
        if columns >= 60 and not re.match(r"\[[=> ]{8,20}\] ", d):
            problems.append("no bar: %s" % d)
    if columns >= 120 and not any("val_loss" in d for d in drawn):
        problems.append("no val_loss: %s" % drawn[-1])
    if done not in body:
        problems.append("not said: %s" % done)
    else:
        rest = body[body.index(done) + len(done):]
        if rest.strip():
            problems.append("after '%s': %r" % (done, rest))
    return ["%d columns, %s: %s" % (columns, language, p) for p in problems]


def main():
    problems = []
    with tempfile.TemporaryDirectory() as folder:
        for language in "en", "zh":
            for columns in 30, 60, 80, 120:
                problems += check(columns, language, *run(columns, language, folder))
    print("\n".join(problems) if problems else "the bar fits 30, 60, 80 and 120 columns")
    return 1 if problems else 0


sys.exit(main())
