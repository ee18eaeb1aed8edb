#!/usr/bin/env python3
"""The quickstart corpus: made by its script byte for byte, large enough, and honestly held out.

No program is run. What is checked: regenerating gives the committed files; at least 100 kB, 200 facts, three
templates a language; no held-out question is anywhere in the training text; each fact that is asked for
is there, in other words; ten prompts a language, all of them held out.
"""
import json
import os
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
QUICKSTART = os.path.join(ROOT, "recipes", "quickstart")
DATA = os.path.join(QUICKSTART, "data")
NAMES = ("train.jsonl", "valid.jsonl", "prompts.tsv")

failed = []


def check(good, message):
    if not good:
        failed.append(message)


def read(folder, name):
    with open(os.path.join(folder, name), "rb") as f:
        return f.read().decode("utf-8")


def split(text):
    """(question, answer) of one document."""
    head, _, answer = text.partition("\n\nAssistant: ")
    return head[len("User: "):], answer


def documents(name):
    rows = [json.loads(line) for line in read(DATA, name).splitlines()]
    check(all(set(row) == {"text"} for row in rows), name + ": every line has the one key 'text'")
    return [split(row["text"]) for row in rows]


def check_regenerated():
    with tempfile.TemporaryDirectory() as folder:
        script = os.path.join(QUICKSTART, "make_corpus.py")
        subprocess.run([sys.executable, "-B", script, folder], check=True)
        for name in NAMES:
            check(read(folder, name) == read(DATA, name), "data/%s: not what make_corpus.py writes" % name)


def check_size():
    sys.dont_write_bytecode = True
    sys.path.insert(0, QUICKSTART)
    import make_corpus
    subjects = {(kind, sides[0][0]) for kind, sides in make_corpus.facts()}
    check(len(subjects) >= 200, "%d distinct facts, 200 wanted" % len(subjects))
    for kind, languages in make_corpus.TEMPLATES.items():
        check(all(len(set(t)) >= 3 for t in languages), kind + ": three templates a language")
    pairs = list(make_corpus.pairs())
    part = sum(p["held_out"] for p in pairs) / len(pairs)
    check(abs(part - 0.1) < 0.005, "%.3f of the pairs held out, a tenth wanted" % part)
    check(len(read(DATA, "train.jsonl").encode()) >= 100000, "train.jsonl: 100 kB wanted")


def check_held_out(train, valid):
    text = "\0".join("User: %s\n\nAssistant: %s" % pair for pair in train)
    answers = {}
    for question, answer in train:
        answers.setdefault(answer, []).append(question)
    for question, answer in valid:
        check(question not in text, "held out, but in the training text: " + question)
        check(answer in answers, "never answered in the training text: " + answer)


def check_prompts(valid):
    held_out = dict(valid)
    rows = [line.split("\t") for line in read(DATA, "prompts.tsv").splitlines()]
    for language in ("en", "zh"):
        check(sum(row[0] == language for row in rows) == 10, language + ": ten prompts wanted")
    check(len({row[1] for row in rows}) == len(rows), "a prompt occurs twice")
    for _, question, words in rows:
        check(words in held_out.get(question, ""), "prompt is not of valid.jsonl: " + question)
        check(words not in question, "the question gives the answer away: " + question)


def main():
    train, valid = documents("train.jsonl"), documents("valid.jsonl")
    check_regenerated()
    check_size()
    check_held_out(train, valid)
    check_prompts(valid)
    for message in failed:
        print("FAILED:", message)
    print("%d training and %d held-out documents" % (len(train), len(valid)))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
