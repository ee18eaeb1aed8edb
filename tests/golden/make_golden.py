#!/usr/bin/env python3
"""Computes the small golden files of this folder, in float64, from the formulas of x052, x060 and x070 (RWKV-5 to 7).

It shares nothing with the engine: the forward pass is written down as the formulas stand in the paper
(arXiv:2404.05892 and 2503.14456), on a tape of some dozen array operations; the gradients come from that tape, and every one
is compared with a complex step of the forward pass before anything is written (agreement to 1e-12 of its
largest value, else the script stops). The layout is that of the large conformance set, so one test reads both:

    models/<arch>-<name>/   model.pth config.json batch.safetensors logits.npy grads_ce.safetensors
                            grads_l2wrap.safetensors
    train/<arch>-<name>/    config.json batches.safetensors log.jsonl final.pth
    rnn/<arch>/             case.json all_logits.npy last_logits.npy final_state.safetensors

Weights come from a generator of our own, the same on every machine. Sums are numpy's, so another machine may
differ in the last bits of float64.

usage: make_golden.py [FOLDER]         needs numpy; no PyTorch
"""
import io
import json
import math
import os
import pickle
import struct
import sys
import types
import zlib

import numpy as np

# -- random numbers: splitmix64; a normal deviate is the sum of twelve uniform ones ---------------------------


class Random:
    def __init__(self, seed):
        self.state = seed

    def u64(self):
        self.state = (self.state + 0x9E3779B97F4A7C15) % 2**64
        z = self.state
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        return z ^ (z >> 31)

    def uniform(self):
        return (self.u64() >> 11) * 2.0**-53

    def below(self, n):
        return int(self.uniform() * n)

    def normal(self, *shape):
        n = int(np.prod(shape))
        return np.array([sum(self.uniform() for _ in range(12)) - 6.0 for _ in range(n)]).reshape(shape)


# -- a tape of array operations -------------------------------------------------------------------------------


class Var:
    """An array, the arrays it was made from, and how its gradient flows to each of them."""

    def __init__(self, value, *parents):
        self.value, self.parents, self.grad = value, parents, None

    shape = property(lambda self: self.value.shape)

    def __add__(self, other):
        other = var(other)
        return Var(self.value + other.value, (self, lambda g: g), (other, lambda g: g))

    def __sub__(self, other):
        other = var(other)
        return Var(self.value - other.value, (self, lambda g: g), (other, lambda g: -g))

    def __mul__(self, other):
        other = var(other)
        return Var(self.value * other.value, (self, lambda g: g * other.value), (other, lambda g: g * self.value))

    def __matmul__(self, other):
        """[..., n] @ [n, m]."""
        a, b = self.value, other.value
        return Var(a @ b, (self, lambda g: g @ b.T),
                   (other, lambda g: a.reshape(-1, a.shape[-1]).T @ g.reshape(-1, g.shape[-1])))

    def __getitem__(self, at):
        def back(g):
            full = np.zeros(self.shape, g.dtype)
            np.add.at(full, at, g)
            return full
        return Var(self.value[at], (self, back))

    def reshape(self, *shape):
        return Var(self.value.reshape(shape), (self, lambda g: g.reshape(self.shape)))

    def transpose(self):
        return Var(self.value.T, (self, lambda g: g.T))

    def sum(self, axis, keep=False):
        def back(g):
            return np.broadcast_to(g if keep else np.expand_dims(g, axis), self.shape)
        return Var(self.value.sum(axis=axis, keepdims=keep), (self, back))

    def mean(self, axis):
        return self.sum(axis, keep=True) * (1.0 / self.shape[axis])


def var(x):
    return x if isinstance(x, Var) else Var(np.asarray(x))


def elementwise(f, derivative):
    """An operation y = f(x) whose derivative is given in x and y."""
    def apply(x):
        y = f(x.value)
        return Var(y, (x, lambda g: g * derivative(x.value, y)))
    return apply


exp = elementwise(np.exp, lambda x, y: y)
log = elementwise(np.log, lambda x, y: 1 / x)
tanh = elementwise(np.tanh, lambda x, y: 1 - y * y)
sigmoid = elementwise(lambda x: 1 / (1 + np.exp(-x)), lambda x, y: y * (1 - y))
rsqrt = elementwise(lambda x: 1 / np.sqrt(x), lambda x, y: -0.5 * y / x)
relu2 = elementwise(lambda x: np.where(x.real > 0, x, 0) ** 2, lambda x, y: 2 * np.where(x.real > 0, x, 0))


def stack(parts, axis):
    def take(i):
        return lambda g: np.take(g, i, axis)
    return Var(np.stack([p.value for p in parts], axis), *((p, take(i)) for i, p in enumerate(parts)))


def unbroadcast(g, shape):
    while g.ndim > len(shape):
        g = g.sum(0)
    for axis, n in enumerate(shape):
        if n == 1 and g.shape[axis] != 1:
            g = g.sum(axis, keepdims=True)
    return g


def backward(loss):
    """Fills .grad of everything that led to the scalar `loss`."""
    order, seen, todo = [], set(), [(loss, False)]
    while todo:
        node, done = todo.pop()
        if done:
            order.append(node)
        elif id(node) not in seen:
            seen.add(id(node))
            todo.append((node, True))
            todo += [(parent, False) for parent, _ in node.parents]
    loss.grad = np.ones_like(loss.value)
    for node in reversed(order):
        for parent, rule in node.parents:
            g = unbroadcast(rule(node.grad), parent.shape)
            parent.grad = g if parent.grad is None else parent.grad + g


# -- what the architectures share -----------------------------------------------------------------------------------------------------


def layer_norm(x, weight, bias, eps=1e-5):
    centred = x - x.mean(-1)
    return centred * rsqrt((centred * centred).mean(-1) + eps) * weight + bias


def previous(x):
    """Row t holds x of t - 1; the first row zeros."""
    zero = Var(np.zeros_like(x.value[:, 0]))
    return stack([zero] + [x[:, t] for t in range(x.shape[1] - 1)], 1)


def wkv6(r, k, v, decay, u, state):
    """All [B,T,H,N]; u [H,N]; state [B,H,N,N], row = value channel. Returns y [B,T,H,N] and the last state."""
    rows = []
    for t in range(r.shape[1]):
        rt, kt, vt, wt = r[:, t], k[:, t], v[:, t], decay[:, t]
        b, h, n = rt.shape
        y = (state * rt.reshape(b, h, 1, n)).sum(-1) + (rt * u * kt).sum(-1, keep=True) * vt
        state = state * wt.reshape(b, h, 1, n) + vt.reshape(b, h, n, 1) * kt.reshape(b, h, 1, n)
        rows.append(y)
    return stack(rows, 1), state


def linear(x, weight):
    return x @ weight.transpose()


def head_norm(y, p, c, eps):
    """[B,T,H,N] -> [B,T,C]: a norm of each head."""
    b, t, h, n = y.shape
    return layer_norm(y, p("ln_x.weight").reshape(h, n), p("ln_x.bias").reshape(h, n), eps).reshape(b, t, h * n)


# -- x052: one decay for each channel --------------------------------------------------------------------------


def mix_of_x052(x, p, name):
    mix = p("time_mix_" + name)
    return x * mix + previous(x) * (var(1.0) - mix)


def time_mix_of_x052(x, p, c, state, carry):
    """p(name) is a parameter of the layer, x the normalised input."""
    b, t, d = x.shape
    h, n = c["n_head"], c["head_size"]
    heads = [linear(mix_of_x052(x, p, i), p(name + ".weight")).reshape(b, t, h, n)
             for i, name in (("r", "receptance"), ("k", "key"), ("v", "value"))]
    decay = exp(exp(p("time_decay")) * -1.0).reshape(1, 1, h, n) + np.zeros((b, t, h, n))
    y, state = wkv6(*heads, decay, p("time_faaaa"), state)
    y = head_norm(y * (1.0 / c["head_size_divisor"]), p, c, 1e-5)
    gate = linear(mix_of_x052(x, p, "g"), p("gate.weight"))
    return linear(y * gate * sigmoid(gate), p("output.weight")), state


def channel_mix_of_x052(x, p):
    inner = relu2(linear(mix_of_x052(x, p, "k"), p("key.weight")))
    return sigmoid(linear(mix_of_x052(x, p, "r"), p("receptance.weight"))) * linear(inner, p("value.weight"))


# -- x060: a decay for each token ------------------------------------------------------------------------------


def time_mix_of_x060(x, p, c, state, carry):
    b, t, d = x.shape
    h, n = c["n_head"], c["head_size"]
    shift = previous(x) - x
    rank = p("time_maa_w1").shape[1] // 5
    mixed = tanh((x + shift * p("time_maa_x")) @ p("time_maa_w1")).reshape(b, t, 5, rank)
    xw, xk, xv, xr, xg = (x + shift * (p("time_maa_" + i) + mixed[:, :, number] @ p("time_maa_w2")[number])
                          for number, i in enumerate("wkvrg"))
    raw = p("time_decay") + tanh(xw @ p("time_decay_w1")) @ p("time_decay_w2")
    decay = exp(exp(raw) * -1.0)
    heads = [linear(xi, p(name + ".weight")).reshape(b, t, h, n)
             for xi, name in ((xr, "receptance"), (xk, "key"), (xv, "value"))]
    y, state = wkv6(*heads, decay.reshape(b, t, h, n), p("time_faaaa"), state)
    y = head_norm(y, p, c, 1e-5 * c["head_size_divisor"] ** 2)
    gate = linear(xg, p("gate.weight"))
    return linear(y * gate * sigmoid(gate), p("output.weight")), state


def channel_mix_of_x060(x, p):
    shift = previous(x) - x
    xk, xr = x + shift * p("time_maa_k"), x + shift * p("time_maa_r")
    inner = relu2(linear(xk, p("key.weight")))
    return sigmoid(linear(xr, p("receptance.weight"))) * linear(inner, p("value.weight"))


# -- x070: the state forgets along a direction -----------------------------------------------------------------


def wkv7(r, decay, k, v, a, b, state):
    """All [B,T,H,N]; state [B,H,N,N], row = value channel. S = S diag(w) + (S a) b^T + v k^T, then y = S r."""
    rows = []
    for t in range(r.shape[1]):
        batch, h, n = r.value[:, t].shape
        across = [x[:, t].reshape(batch, h, 1, n) for x in (r, decay, k, a, b)]
        rt, wt, kt, at, bt = across
        state = state * wt + (state * at).sum(-1, keep=True) * bt + v[:, t].reshape(batch, h, n, 1) * kt
        rows.append((state * rt).sum(-1))
    return stack(rows, 1), state


def time_mix_of_x070(x, p, c, state, carry):
    """carry: the values of block 0, put there by block 0."""
    b, t, d = x.shape
    h, n = c["n_head"], c["head_size"]
    shift = previous(x) - x
    xr, xw, xk, xv, xa, xg = (x + shift * p("x_" + i) for i in "rwkvag")
    r, k, v = (linear(xi, p(name + ".weight")) for xi, name in ((xr, "receptance"), (xk, "key"), (xv, "value")))
    decay = exp(sigmoid(p("w0") + tanh(xw @ p("w1")) @ p("w2")) * -math.exp(-0.5))
    if carry:
        v = v + (carry[0] - v) * sigmoid(p("v0") + (xv @ p("v1")) @ p("v2"))
    else:
        carry.append(v)
    a = sigmoid(p("a0") + (xa @ p("a1")) @ p("a2"))
    gate = sigmoid(xg @ p("g1")) @ p("g2")
    removal = (k * p("k_k")).reshape(b, t, h, n)
    removal = removal * rsqrt((removal * removal).sum(-1, keep=True))  # the norm's lower bound, 1e-12, is far away
    k = k * ((a - 1.0) * p("k_a") + 1.0)
    r, k, v, a, decay = (i.reshape(b, t, h, n) for i in (r, k, v, a, decay))
    y, state = wkv7(r, decay, k, v, removal * -1.0, removal * a, state)
    bonus = (r * k * p("r_k")).sum(-1, keep=True) * v
    y = head_norm(y, p, c, 64e-5) + bonus.reshape(b, t, d)
    return linear(y * gate, p("output.weight")), state


def channel_mix_of_x070(x, p):
    return linear(relu2(linear(x + (previous(x) - x) * p("x_k"), p("key.weight"))), p("value.weight"))


# -- a whole model ---------------------------------------------------------------------------------------------

BLOCKS = {"x052": (time_mix_of_x052, channel_mix_of_x052), "x060": (time_mix_of_x060, channel_mix_of_x060),
          "x070": (time_mix_of_x070, channel_mix_of_x070)}


def forward(params, c, idx):
    """params: name -> Var. Returns the logits [B,T,V] and what a recurrent run would carry on, by name."""
    state, carry = {}, []
    time_mix, channel_mix = BLOCKS[c["arch"]]
    x = params["emb.weight"][idx]
    x = layer_norm(x, params["blocks.0.ln0.weight"], params["blocks.0.ln0.bias"])
    for layer in range(c["n_layer"]):
        block = "blocks.%d." % layer

        def norm(name, x):
            return layer_norm(x, params[block + name + ".weight"], params[block + name + ".bias"])

        zeros = var(np.zeros((idx.shape[0], c["n_head"], c["head_size"], c["head_size"])))
        a = norm("ln1", x)
        out, wkv = time_mix(a, lambda name: params[block + "att." + name], c, zeros, carry)
        x = x + out
        f = norm("ln2", x)
        x = x + channel_mix(f, lambda name: params[block + "ffn." + name])
        state[block + "ffn_x_prev"] = f.value[0, -1]
        state[block + "att_x_prev"] = a.value[0, -1]
        rows = wkv.value[0]  # stored [head][key][value], but for x070 as it is
        state[block + "wkv"] = rows if c["arch"] == "x070" else rows.transpose(0, 2, 1)
    x = layer_norm(x, params["ln_out.weight"], params["ln_out.bias"])
    return linear(x, params["head.weight"]), state


def cross_entropy(logits, targets, mask):
    """sum(ce * mask) / sum(mask)."""
    b, t, v = logits.shape
    top = logits.value.real.max(-1, keepdims=True)
    log_sum = log(exp(logits - top).sum(-1)) + top[..., 0]
    at = np.arange(b)[:, None], np.arange(t)[None, :], targets
    return ((log_sum - logits[at]) * mask).sum(-1).sum(-1) * (1.0 / mask.sum())


def l2wrap(logits):
    """A term of no value whose gradient is logit * 1e-4 / (B T) at the largest logit of each row."""
    b, t, v = logits.shape
    at = np.arange(b)[:, None], np.arange(t)[None, :], logits.value.real.argmax(-1)
    top = logits[at]
    return ((top * top).sum(-1).sum(-1) - (top.value ** 2).sum()) * (0.5e-4 / (b * t))


def gradients(weights, c, idx, targets, mask, wrap):
    params = {name: Var(value) for name, value in weights.items()}
    logits, _ = forward(params, c, idx)
    loss = cross_entropy(logits, targets, mask)
    backward(loss + l2wrap(logits) if wrap else loss)
    grads = {name: np.zeros_like(p.value) if p.grad is None else p.grad for name, p in params.items()}
    return float(loss.value), logits.value, grads


def check_gradients(weights, c, idx, targets, mask, grads):
    """Each gradient against a complex step along a random direction of that tensor alone."""
    random, worst = Random(99), 0.0
    for name, value in weights.items():
        direction = random.normal(*value.shape)
        params = {n: Var(w + 1e-30j * direction if n == name else w) for n, w in weights.items()}
        loss = cross_entropy(forward(params, c, idx)[0], targets, mask).value
        step, tape = loss.imag * 1e30, float((grads[name] * direction).sum())
        scale = np.abs(grads[name]).max() * math.sqrt(value.size)
        if scale == 0 and step != 0:
            sys.exit("%s has a gradient" % name)
        worst = max(worst, abs(step - tape) / (scale or 1))
    if not worst < 1e-12:
        sys.exit("gradients disagree with the complex step: %g" % worst)
    return worst


# -- models ---------------------------------------------------------------------------------------------------


def time_mix_shapes(c, ranks):
    d, heads = c["n_embd"], (c["n_head"], c["head_size"])
    if c["arch"] == "x052":
        names = [("time_mix_" + i, (1, 1, d)) for i in "kvrg"] + [("time_decay", heads), ("time_faaaa", heads)]
    elif c["arch"] == "x060":
        mix, decay = ranks
        names = [("time_maa_" + i, (1, 1, d)) for i in "xwkvrg"]
        names += [("time_maa_w1", (d, 5 * mix)), ("time_maa_w2", (5, mix, d)), ("time_decay", (1, 1, d)),
                  ("time_decay_w1", (d, decay)), ("time_decay_w2", (decay, d)), ("time_faaaa", heads)]
    else:
        names = [("x_" + i, (1, 1, d)) for i in "rwkvag"]
        for i, rank in zip("wavg", ranks):
            names += [(i + "1", (d, rank)), (i + "2", (rank, d))] + ([] if i == "g" else [(i + "0", (1, 1, d))])
        names += [("k_k", (1, 1, d)), ("k_a", (1, 1, d)), ("r_k", heads)]
    matrices = ["receptance", "key", "value", "output"] + (["gate"] if c["arch"] != "x070" else [])
    return names + [(n + ".weight", (d, d)) for n in matrices] + [("ln_x.weight", (d,)), ("ln_x.bias", (d,))]


def channel_mix_shapes(c):
    d, f = c["n_embd"], c["ffn_hidden"]
    if c["arch"] == "x070":
        return [("x_k", (1, 1, d)), ("key.weight", (f, d)), ("value.weight", (d, f))]
    mix = "time_mix_" if c["arch"] == "x052" else "time_maa_"
    return [(mix + "k", (1, 1, d)), (mix + "r", (1, 1, d)), ("key.weight", (f, d)), ("receptance.weight", (d, d)),
            ("value.weight", (d, f))]


def parameter_shapes(c, ranks):
    d, v = c["n_embd"], c["vocab_size"]
    rows = [("emb.weight", (v, d))]
    for layer in range(c["n_layer"]):
        block = [("ln1", (d,)), ("ln2", (d,))] + ([("ln0", (d,))] if layer == 0 else [])
        names = [(n + end, s) for n, s in block for end in (".weight", ".bias")]
        names += [("att." + n, s) for n, s in time_mix_shapes(c, ranks)]
        names += [("ffn." + n, s) for n, s in channel_mix_shapes(c)]
        rows += [("blocks.%d.%s" % (layer, n), s) for n, s in names]
    return rows + [("ln_out.weight", (d,)), ("ln_out.bias", (d,)), ("head.weight", (v, d))]


def random_weight(random, name, shape):
    """Values of the size of a trained model's: no matrix is zero, decays from slow to fast."""
    x = random.normal(*shape)
    kind = name.split(".")[-1] if not name.endswith((".weight", ".bias")) else name
    if ("ln" in name) and name.endswith(".weight"):
        return 1 + 0.1 * x
    if name.endswith(".bias"):
        return 0.1 * x
    if kind in ("time_decay", "w0"):
        return np.linspace(-6, 0.5, x.size).reshape(shape) + 0.1 * x
    if kind in ("k_k", "k_a"):
        return 0.8 + 0.2 * x
    if kind.startswith(("time_maa_", "time_mix_", "x_")) and shape[:2] == (1, 1):
        return 0.5 + 0.25 * x
    if name == "emb.weight":
        return 0.5 * x
    if name.endswith(".weight"):
        return x * (1.2 / math.sqrt(shape[-1]))
    return 0.3 * x  # LoRA, bonuses, a0, v0


def make_weights(c, seed, ranks):
    random = Random(seed)
    return {name: random_weight(random, name, shape).astype("<f4").astype(np.float64)
            for name, shape in parameter_shapes(c, ranks)}


def config(**options):
    c = {"n_layer": 2, "n_embd": 32, "dim_ffn": 32, "head_size": 32, "head_size_divisor": 8, "vocab_size": 37,
         "ctx_len": 16, "pre_ffn": 0, "head_qk": 0, "dropout": 0, "my_qa_mask": 0, "my_testing": "x060",
         "train_type": "", "dtype": "float32", "source": "formulas", "B": 2, "T": 9}
    c.update(options)
    c["arch"] = c["my_testing"]
    c["dim_att"] = c["n_embd"]
    c["ffn_hidden"] = c["dim_ffn"]
    c["n_head"] = c["n_embd"] // c["head_size"]
    return c


def make_batch(c, seed):
    random = Random(seed)
    tokens = np.array([[random.below(c["vocab_size"]) for _ in range(c["T"] + 1)] for _ in range(c["B"])])
    mask = np.ones((c["B"], c["T"]))
    if c["my_qa_mask"]:
        mask = np.array([[float(random.below(3) > 0) for _ in range(c["T"])] for _ in range(c["B"])])
    return tokens[:, :-1], tokens[:, 1:], mask


# -- files ----------------------------------------------------------------------------------------------------


def write(path, data):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as f:
        f.write(data)


def write_json(path, value):
    write(path, (json.dumps(value, indent=1) + "\n").encode())


def write_safetensors(path, tensors):
    """u64 header length, JSON header padded with spaces to 8 bytes, raw data."""
    names = {np.dtype("<f8"): "F64", np.dtype("<f4"): "F32", np.dtype("<i8"): "I64", np.dtype("<i4"): "I32"}
    header, data = {}, b""
    for name, value in tensors.items():
        raw = np.ascontiguousarray(value).tobytes()
        header[name] = {"dtype": names[value.dtype], "shape": list(value.shape),
                        "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    write(path, struct.pack("<Q", len(text)) + text + data)


def write_npy(path, value):
    out = io.BytesIO()
    np.lib.format.write_array(out, np.ascontiguousarray(value.astype("<f4")), version=(1, 0))
    write(path, out.getvalue())


class Storage:
    def __init__(self, key, numel):
        self.key, self.numel = key, numel


class Tensor:
    """Pickles as the official files' tensors do."""

    def __init__(self, storage, shape):
        self.storage, self.shape = storage, shape

    def __reduce__(self):
        from collections import OrderedDict
        stride, step = [], 1
        for n in reversed(self.shape):
            stride.insert(0, step)
            step *= n
        rebuild = sys.modules["torch._utils"]._rebuild_tensor_v2
        return rebuild, (self.storage, 0, self.shape, tuple(stride), False, OrderedDict())


class StatePickler(pickle.Pickler):
    def persistent_id(self, value):
        if isinstance(value, Storage):
            return "storage", sys.modules["torch"].FloatStorage, value.key, "cpu", value.numel
        return None


def stand_ins():
    """Modules of the names that the pickle mentions: pickling a class by name needs the name to exist."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")

    def _rebuild_tensor_v2():
        """Only its name is used."""

    _rebuild_tensor_v2.__module__, _rebuild_tensor_v2.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    utils._rebuild_tensor_v2 = _rebuild_tensor_v2
    torch.FloatStorage = type("FloatStorage", (), {"__module__": "torch"})
    torch._utils = utils
    return {"torch": torch, "torch._utils": utils}


def pickle_state(weights):
    saved = {name: sys.modules.get(name) for name in ("torch", "torch._utils")}
    sys.modules.update(stand_ins())
    try:
        out = io.BytesIO()
        StatePickler(out, protocol=2).dump({name: Tensor(Storage(str(i), int(w.size)), tuple(w.shape))
                                            for i, (name, w) in enumerate(weights.items())})
        return out.getvalue()
    finally:
        for name, module in saved.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


def write_pth(path, weights):
    """A zip of stored entries; the data of each begins at a multiple of 64, by padding in its extra field."""
    root = os.path.splitext(os.path.basename(path))[0]
    entries = [("data.pkl", pickle_state(weights))]
    entries += [("data/%d" % i, w.astype("<f4").tobytes()) for i, w in enumerate(weights.values())]
    entries += [("version", b"3\n")]
    body, directory = b"", b""
    for name, data in entries:
        name = ("%s/%s" % (root, name)).encode()
        pad = -(len(body) + 30 + len(name) + 4) % 64
        extra = b"FB" + struct.pack("<H", pad) + b"Z" * pad
        common = struct.pack("<HHHHHIII", 20, 0x0800, 0, 0, 0x21, zlib.crc32(data), len(data), len(data))
        directory += (b"PK\x01\x02" + struct.pack("<H", 20) + common +
                      struct.pack("<HHHHHII", len(name), 0, 0, 0, 0, 0, len(body)) + name)
        body += b"PK\x03\x04" + common + struct.pack("<HH", len(name), len(extra)) + name + extra + data
    end = struct.pack("<HHHHIIH", 0, 0, len(entries), len(entries), len(directory), len(body), 0)
    write(path, body + directory + b"PK\x05\x06" + end)


# -- the three kinds of cases ---------------------------------------------------------------------------------


def norm(grads):
    return math.sqrt(sum(float((g * g).sum()) for g in grads.values()))


def in_subset(kind, name, value):
    if kind == "all":
        return True
    if kind == "small":
        return value.size <= 960
    return name.startswith(("emb", "head")) or ".ln" in name or "ln_out" in name


def make_model(folder, name, c, weights, own, seed, ce="all", wrap="wrap"):
    """weights: of config `model`, written when `own`. ce, wrap: which gradients are kept."""
    where = os.path.join(folder, "models", name)
    idx, targets, mask = make_batch(c, seed)
    loss, logits, plain = gradients(weights, c, idx, targets, mask, False)
    worst = check_gradients(weights, c, idx, targets, mask, plain)
    _, _, wrapped = gradients(weights, c, idx, targets, mask, True)
    c = dict(c, seed=seed, loss=loss, grad_norm_ce=norm(plain), grad_norm_l2wrap=norm(wrapped),
             ce_grads="all" if ce == "all" else "subset", l2wrap_grads="subset")
    if own:
        write_pth(os.path.join(where, "model.pth"), weights)
    batch = {"idx": idx.astype("<i8"), "targets": targets.astype("<i8")}
    if c["my_qa_mask"]:
        batch["mask"] = mask.astype("<f4")
    write_safetensors(os.path.join(where, "batch.safetensors"), batch)
    write_json(os.path.join(where, "config.json"), c)
    write_npy(os.path.join(where, "logits.npy"), logits)
    for file, kind, grads in (("ce", ce, plain), ("l2wrap", wrap, wrapped)):
        write_safetensors(os.path.join(where, "grads_%s.safetensors" % file),
                          {n: g.astype("<f4") for n, g in grads.items() if in_subset(kind, n, g)})
    print("%-14s loss %.6f, gradients against a complex step %.1e" % (name, loss, worst))


def group_of(name, value, flags):
    """(scale of the learning rate, decays) by the official rule, stage 0."""
    if "_w1" in name or "_w2" in name or "time_maa" in name or "time_faaaa" in name:
        return 1.0, False
    if "time_decay" in name:
        return 2.0, False
    return 1.0, np.squeeze(value).ndim >= 2 and flags["weight_decay"] > 0


def learning_rate(flags, step):
    """The official exponential schedule with its warmup."""
    warm = flags["warmup_steps"]
    progress = (step + 1 - warm) / (flags["epoch_count"] * flags["epoch_steps"] - warm)
    progress = min(1, max(0, progress))
    lr = flags["lr_init"] * math.exp(progress * math.log(flags["lr_final"] / flags["lr_init"]))
    return lr * (0.2 + 0.8 * step / warm) if step < warm else lr


def make_train(folder, name, c, weights, flags, n_steps, seed):
    """AdamW as FusedAdam computes it: bias corrected, eps outside the root, decay beside the step."""
    where = os.path.join(folder, "train", name)
    batches = [make_batch(c, seed + step) for step in range(n_steps)]
    groups = {n: group_of(n, w, flags) for n, w in weights.items()}
    p = dict(weights)
    m, v = ({n: np.zeros_like(w) for n, w in p.items()} for _ in range(2))
    log_lines = []
    for step, (idx, targets, mask) in enumerate(batches):
        lr = learning_rate(flags, step)
        loss, _, grads = gradients(p, c, idx, targets, mask, True)
        total = norm(grads)
        clip = min(1.0, flags["grad_clip"] / (total + 1e-6))
        for n in p:
            scale, decays = groups[n]
            g = grads[n] * clip
            m[n] = flags["beta1"] * m[n] + (1 - flags["beta1"]) * g
            v[n] = flags["beta2"] * v[n] + (1 - flags["beta2"]) * g * g
            moved = m[n] / (1 - flags["beta1"] ** (step + 1))
            moved = moved / (np.sqrt(v[n] / (1 - flags["beta2"] ** (step + 1))) + flags["adam_eps"])
            p[n] = p[n] - lr * scale * (moved + (flags["weight_decay"] if decays else 0) * p[n])
        log_lines.append({"step": step, "loss": loss, "lr": lr, "weight_decay": flags["weight_decay"],
                          "grad_norm": total, "clip_coef": clip, "loss_fp64": loss, "grad_norm_fp64": total})
    kinds = sorted(set(groups.values()), key=lambda g: (g[1], g[0]))
    rows = [{"my_lr_scale": s, "decays": d, "params": sorted(n for n in groups if groups[n] == (s, d))}
            for s, d in kinds]
    write_json(os.path.join(where, "config.json"), dict(c, **flags, steps=n_steps, seed=seed, groups=rows))
    write_safetensors(os.path.join(where, "batches.safetensors"),
                      {"idx": np.stack([b[0] for b in batches]).astype("<i4"),
                       "targets": np.stack([b[1] for b in batches]).astype("<i4")})
    write(os.path.join(where, "log.jsonl"), "".join(json.dumps(line) + "\n" for line in log_lines).encode())
    write_pth(os.path.join(where, "final.pth"), p)
    print("%-14s loss %.6f -> %.6f" % (name, log_lines[0]["loss"], log_lines[-1]["loss"]))


def make_rnn(folder, c, weights, model, n_prompt, n_new, seed):
    """A greedy continuation; every token runs the whole sequence again, so nothing is carried."""
    random = Random(seed)
    ids, params, margin = [random.below(c["vocab_size"]) for _ in range(n_prompt)], {}, math.inf
    params = {name: Var(value) for name, value in weights.items()}
    for _ in range(n_new):
        logits = forward(params, c, np.array([ids]))[0].value[0, -1]
        order = np.sort(logits)
        margin = min(margin, float(order[-1] - order[-2]))
        ids.append(int(logits.argmax()))
    logits, state = forward(params, c, np.array([ids]))
    where = os.path.join(folder, "rnn", c["arch"])
    write_json(os.path.join(where, "case.json"),
               {"arch": c["arch"], "model": model, "prompt": ids[:n_prompt], "continuation": ids[n_prompt:],
                "n_new": n_new, "min_top1_top2_margin": margin, "seed": seed})
    write_npy(os.path.join(where, "all_logits.npy"), logits.value[0])
    write_npy(os.path.join(where, "last_logits.npy"), logits.value[0, -1])
    write_safetensors(os.path.join(where, "final_state.safetensors"),
                      {name: value.astype("<f4") for name, value in state.items()})
    print("rnn/%-10s smallest margin %.4f, %d different tokens" % (c["arch"], margin, len(set(ids[n_prompt:]))))


def main():
    folder = sys.argv[1] if len(sys.argv) > 1 else os.path.dirname(os.path.abspath(__file__))
    tiny = config(model="models/x060-tiny/model.pth")
    weights = make_weights(tiny, 601, (4, 8))
    make_model(folder, "x060-tiny", tiny, weights, True, 602)
    make_model(folder, "x060-tinymask", dict(tiny, my_qa_mask=1), weights, False, 603, ce="small")

    # One layer keeps the files small. A .pth does not say the divisor, so a generator takes the official 8.
    heads = config(n_layer=1, n_embd=64, dim_ffn=32, vocab_size=40, B=1, T=17, ctx_len=17, head_size_divisor=4,
                   model="models/x060-heads/model.pth")
    wide = make_weights(heads, 611, (3, 5))
    make_model(folder, "x060-heads", heads, wide, True, 612, ce="small")
    make_rnn(folder, dict(heads, head_size_divisor=8), wide, heads["model"], 6, 16, 613)

    old = config(my_testing="x052", n_layer=1, head_size_divisor=4, model="models/x052-tiny/model.pth")
    make_model(folder, "x052-tiny", old, make_weights(old, 631, ()), True, 632, ce="small")

    new = config(my_testing="x070", T=21, ctx_len=21, model="models/x070-tiny/model.pth")
    newest = make_weights(new, 641, (3, 4, 2, 5))
    make_model(folder, "x070-tiny", new, newest, True, 642)
    make_rnn(folder, new, newest, new["model"], 6, 16, 643)

    flags = {"lr_init": 2e-3, "lr_final": 2e-4, "warmup_steps": 2, "epoch_begin": 0, "epoch_steps": 8, "epoch_count": 1,
             "my_exit_tokens": 0, "my_pile_stage": 0, "my_pile_edecay": 0, "layerwise_lr": 1, "weight_decay": 0.1,
             "weight_decay_final": -1.0, "beta1": 0.9, "beta2": 0.99, "adam_eps": 1e-8, "grad_clip": 1.0,
             "adam_w_mode": True, "micro_bsz": 2, "real_bsz": 2, "init": "models/x060-tiny/model.pth"}
    make_train(folder, "x060-tiny", tiny, weights, flags, 5, 620)


if __name__ == "__main__":
    main()
