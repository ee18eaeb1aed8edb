"""Assembles the text of the tokenizer benchmark: 32 MB or more of natural text that never repeats a line.

    python3 tokenizer_text.py OUT.txt [FOLDER_FOR_DOWNLOADS]

The text comes from Debian's documentation packages (HTML, manual pages, plain text; Simplified and
Traditional Chinese, English and other languages), fetched with `apt-get download` and unpacked without
being installed. Markup is removed, each line is kept once. All Chinese lines come first into the budget,
then others until 68 % of the bytes are not Chinese. The result is not kept in the repository.
"""
import glob
import gzip
import html
import os
import random
import re
import subprocess
import sys

PACKAGES = """libreoffice-help-zh-cn libreoffice-help-zh-tw libreoffice-help-en-us debian-handbook manpages-zh
debian-reference-zh-cn debian-reference-zh-tw linux-doc-6.1 aptitude-doc-en""".split()
MIN_BYTES = 32_000_000
MAX_BYTES = 40_000_000
CJK = re.compile("[\u3000-\u303f\u3400-\u9fff\uff00-\uffef]+")


def unpack(folder):
    os.makedirs(folder, exist_ok=True)
    debs = glob.glob(os.path.join(folder, "*.deb"))
    if not debs:
        subprocess.run(["apt-get", "download", *PACKAGES], cwd=folder, check=True)
        debs = glob.glob(os.path.join(folder, "*.deb"))
    tree = os.path.join(folder, "tree")
    if not os.path.isdir(tree):
        for deb in debs:
            subprocess.run(["dpkg-deb", "-x", deb, tree], check=True)
    return tree


def read(path):
    data = open(path, "rb").read()
    if path.endswith(".gz"):
        data = gzip.decompress(data)
    return data.decode("utf-8", "strict")


def plain(path, text):
    """The text without its markup; None for what is no text."""
    name = path.removesuffix(".gz")
    if name.endswith((".html", ".htm")):
        text = re.sub(r"(?s)<(script|style)\b.*?</\1>", " ", text)
        text = re.sub(r"(?i)<(br|/p|/div|/li|/tr|/h\d|/dt|/dd|/pre|/td)\b[^>]*>", "\n", text)
        return html.unescape(re.sub(r"(?s)<[^>]*>", "", text))
    if re.search(r"\.[1-9][a-z]*$", name):
        text = re.sub(r"(?m)^\.\\\".*$", "", text)
        return re.sub(r"\\f[A-Z]|\\-|\\&|(?m:^\.[A-Za-z]{1,3} ?)", "", text)
    if name.endswith((".txt", ".rst")):
        return text
    return None


def lines_of(tree):
    seen = set()
    for folder, dirs, files in sorted(os.walk(tree)):
        dirs.sort()
        for name in sorted(files):
            path = os.path.join(folder, name)
            if os.path.islink(path):
                continue
            try:
                text = plain(path, read(path))
            except (UnicodeDecodeError, OSError):
                continue
            for line in (text or "").splitlines():
                key = line.strip()
                if len(key) > 3 and key not in seen:
                    seen.add(key)
                    yield line.rstrip() + "\n"


def main():
    out = sys.argv[1]
    folder = sys.argv[2] if len(sys.argv) > 2 else os.path.join(os.path.dirname(os.path.abspath(out)), "packages")
    chinese, other = [], []
    for line in lines_of(unpack(folder)):
        n = sum(len(m.encode()) for m in CJK.findall(line))
        (chinese if n > 0 else other).append((line, n, len(line.encode())))
    n_cjk = sum(n for _, n, _ in chinese)
    n_bytes = sum(size for _, _, size in chinese)
    budget = min(MAX_BYTES, int(n_cjk / 0.32))
    # Whole runs of neighbouring lines, so that the text reads on as it did in its file.
    runs = [other[i:i + 200] for i in range(0, len(other), 200)]
    random.Random(1).shuffle(runs)
    kept = [chinese[i:i + 200] for i in range(0, len(chinese), 200)]
    for run in runs:
        if n_bytes >= budget:
            break
        kept.append(run)
        n_bytes += sum(size for _, _, size in run)
    random.Random(2).shuffle(kept)
    with open(out, "w", encoding="utf-8", newline="") as f:
        for run in kept:
            f.writelines(line for line, _, _ in run)
    print(f"{out}: {n_bytes} bytes, {100 * n_cjk / n_bytes:.1f} % Chinese")
    if n_bytes < MIN_BYTES or n_cjk < 0.3 * n_bytes:
        sys.exit("too little text")


if __name__ == "__main__":
    main()
