"""The PyTorch half of tests/unit/checkpoint/test_interop_torch.c.

torch_files.py FOLDER

First loads rwkv-{f32,bf16,f16}.pth of the folder in every way this torch offers and compares each tensor with the bits of
bits.bin. Then saves dictionaries of tensors in many forms as NAME.pth, their bytes in logical order as NAME.raw, their
names as NAME.txt, and all NAMEs as saved.txt. Leaves with status 77 when there is no torch.
"""

import collections
import inspect
import os
import sys

try:
    import torch
except ImportError:
    sys.exit(77)

DTYPES = {"f32": (torch.float32, torch.int32), "bf16": (torch.bfloat16, torch.int16), "f16": (torch.float16, torch.int16)}
SHAPES = [(37, 501), (1, 1, 501), (), (37,)]


def bits_of(tensor):
    """The bytes of a tensor in logical order."""
    wide = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
    tensor = tensor.resolve_neg() if hasattr(tensor, "resolve_neg") else tensor
    return tensor.detach().contiguous().view(-1).view(wide).numpy().tobytes() if tensor.numel() else b""


def ways_to_load():
    """Keyword arguments to be tried: what this torch knows of weights_only and mmap."""
    known = inspect.signature(torch.load).parameters
    ways = [{"weights_only": False} if "weights_only" in known else {}]
    if "weights_only" in known:
        ways.append({"weights_only": True})
    if "mmap" in known:
        ways.append({"weights_only": True, "mmap": True})
    return ways


def check(folder):
    raw = open(os.path.join(folder, "bits.bin"), "rb").read()
    for name, (dtype, _) in DTYPES.items():
        for way in ways_to_load():
            loaded = torch.load(os.path.join(folder, "rwkv-%s.pth" % name), map_location="cpu", **way)
            assert isinstance(loaded, collections.OrderedDict), type(loaded)
            assert list(loaded) == ["blocks.%d.字.weight" % i for i in range(4)], list(loaded)
            for tensor, shape in zip(loaded.values(), SHAPES):
                assert tensor.dtype == dtype and tuple(tensor.shape) == shape and tensor.is_contiguous()
                assert tensor.data_ptr() % tensor.element_size() == 0
                bits = bits_of(tensor.reshape(1) if tensor.dim() == 0 else tensor)
                assert bits == raw[: len(bits)], "%s: bits differ" % name
            print("torch %s loads rwkv-%s.pth %s: equal" % (torch.__version__, name, way))


def random_bits(shape, dtype, generator):
    n = 1
    for x in shape:
        n *= x
    integer = [i for d, i in DTYPES.values() if d == dtype][0]
    info = torch.iinfo(integer)
    return torch.randint(info.min, info.max, (n,), dtype=integer, generator=generator).view(dtype).view(shape)


def dictionaries():
    g = torch.Generator().manual_seed(1)
    for name, (dtype, _) in DTYPES.items():
        yield "plain-" + name, {"a": random_bits((3, 5), dtype, g), "字.b": random_bits((1, 1, 70000), dtype, g)}, {}
        flat = random_bits((1000,), dtype, g)
        views = collections.OrderedDict()
        views["slice"] = flat[10:70].view(6, 10)
        views["transposed"] = flat[100:400].view(20, 15).t()
        views["steps"] = flat[::7]
        views["expanded"] = flat[:5].expand(4, 5)
        views["permuted"] = flat[:24].view(2, 3, 4).permute(2, 0, 1)
        views["scalar"] = flat[3]
        views["empty"] = flat[:0]
        yield "views-" + name, views, {}
        if hasattr(torch._utils, "get_tensor_metadata"):  # since 2.0; before, torch.save itself lost the sign
            finite = torch.arange(-30, 30).to(dtype)
            negated = {"whole": torch._neg_view(finite), "turned": torch._neg_view(finite.view(6, 10).t())}
            yield "negated-" + name, negated, {}
            yield "legacy-negated-" + name, negated, {"_use_new_zipfile_serialization": False}
        yield "legacy-" + name, dict(views), {"_use_new_zipfile_serialization": False}
    module = torch.nn.Sequential(torch.nn.Linear(7, 11), torch.nn.LayerNorm(11))
    yield "module", module.state_dict(), {}
    yield "module-bf16", module.bfloat16().state_dict(), {}
    yield "parameters", {k: torch.nn.Parameter(v) for k, v in module.state_dict().items()}, {}
    yield "wrapped", {"epoch": 3, "state_dict": module.state_dict()}, {}
    yield "large", {"w": random_bits((2100, 1000), torch.float32, g).t()}, {}
    yield "integers", {"i64": torch.arange(10), "u8": torch.arange(10, dtype=torch.uint8), "bool": torch.ones(3) > 0}, {}


def save(folder):
    names = []
    for name, tensors, options in dictionaries():
        torch.save(tensors, os.path.join(folder, name + ".pth"), **options)
        tensors = tensors.get("state_dict", tensors)
        with open(os.path.join(folder, name + ".raw"), "wb") as raw:
            for tensor in tensors.values():
                raw.write(bits_of(tensor.reshape(1) if tensor.dim() == 0 else tensor))
        with open(os.path.join(folder, name + ".txt"), "w") as text:
            text.write("".join(key + "\n" for key in tensors))
        names.append(name)
    with open(os.path.join(folder, "saved.txt"), "w") as text:
        text.write("".join(name + "\n" for name in names))


if __name__ == "__main__":
    check(sys.argv[1])
    save(sys.argv[1])
