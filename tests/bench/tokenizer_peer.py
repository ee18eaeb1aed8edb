"""The Python tokenizer of PyPI's `rwkv` package on the same text, and whether the ids are the same.

    python3 tokenizer_peer.py BENCH VOCAB TEXT [FOLDER_OF_PACKAGE]

BENCH is the program built from tokenizer.c; FOLDER_OF_PACKAGE holds the unpacked wheel (or install it). The
wheel's own vocabulary must be the same as VOCAB (but for the ends of its lines). Prints both rates and their ratio (processor time); status 1 when an id differs.
"""
import array
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
import time


def load_peer(folder):
    """The tokenizer's module alone: the package itself would want PyTorch."""
    if folder is None:
        spec = importlib.util.find_spec("rwkv")
        folder = os.path.dirname(spec.submodule_search_locations[0])
    spec = importlib.util.spec_from_file_location("peer", os.path.join(folder, "rwkv", "rwkv_tokenizer.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module, os.path.join(folder, "rwkv", "rwkv_vocab_v20230424.txt")


def main():
    bench, vocab, text = sys.argv[1:4]
    module, peer_vocab = load_peer(sys.argv[4] if len(sys.argv) > 4 else None)
    if open(vocab, "rb").read().replace(b"\r", b"") != open(peer_vocab, "rb").read().replace(b"\r", b""):
        sys.exit("the vocabularies differ")
    with tempfile.TemporaryDirectory() as tmp:
        ids_file = os.path.join(tmp, "ids.bin")
        out = subprocess.run([bench, vocab, text, ids_file], check=True, capture_output=True, text=True).stdout
        ours = array.array("i")
        ours.frombytes(open(ids_file, "rb").read())
    print(out, end="")
    rate = float(re.search(r"([0-9.]+) MB/s of processor time", out).group(1))
    tokenizer = module.TRIE_TOKENIZER(peer_vocab)
    data = open(text, "rb").read()
    start = time.process_time()
    theirs = tokenizer.encodeBytes(data)
    seconds = time.process_time() - start
    same = array.array("i", theirs) == ours
    peer_rate = len(data) / 1e6 / seconds
    print(f"peer (PyPI rwkv, Python): {peer_rate:.3f} MB/s of processor time, {len(theirs)} ids; ratio {rate / peer_rate:.0f}")
    print("ids equal on the whole text" if same else "ids DIFFER")
    sys.exit(0 if same else 1)


if __name__ == "__main__":
    main()
