"""The half of tests/cli/test_official_inference.py that needs PyTorch.

official_inference.py PACKAGE_FOLDER MODEL.pth ARCH N ID...

Loads the model in the official inference package, feeds the prompt's ids, and prints the N likeliest ids that follow,
each fed back in turn."""

import os
import sys

import torch


def accept_newer_arguments():
    """The package asks torch.load for memory mapping, which torch 1.13 does not know."""
    load = torch.load
    known = load.__code__.co_varnames
    torch.load = lambda *args, **options: load(*args, **{k: v for k, v in options.items() if k in known})


def load_model(folder, path, arch):
    os.environ["RWKV_JIT_ON"] = "0"
    os.environ["RWKV_CUDA_ON"] = "0"
    if arch == "x070":
        os.environ["RWKV_V7_ON"] = "1"
    sys.path.insert(0, folder)
    from rwkv.model import RWKV

    # The x070 class adds ".pth" to the name itself.
    return RWKV(model=path.removesuffix(".pth") if arch == "x070" else path, strategy="cpu fp32")


def continue_greedily(model, ids, n):
    logits, state = model.forward(ids, None)
    made = []
    for _ in range(n):
        made.append(int(torch.argmax(logits)))
        logits, state = model.forward([made[-1]], state)
    return made


def main():
    folder, path, arch, n = sys.argv[1:5]
    accept_newer_arguments()
    model = load_model(folder, path, arch)
    print("ids", *continue_greedily(model, [int(i) for i in sys.argv[5:]], int(n)))


if __name__ == "__main__":
    main()
