# A model trained here for 20 steps, read by the official inference package, says the same 32 tokens as `generate`.
#
# The package comes from PyPI (pip download, no dependencies) and runs on the distribution's PyTorch; skipped without
# either. $RWKV_OFFICIAL: a folder that holds the unpacked package already.
import glob
import os
import subprocess
import sys
import tempfile
import zipfile

PACKAGE = "rwkv==0.8.32"
ARCHS = ["x052", "x060", "x070"]
TOKENS = 32
PROMPT = "Q: where"
HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
PROGRAM = os.environ["RWKV_RUN"]

RECIPE = """
device: cpu
model: {{ arch: {arch}, n_layer: 3, n_embd: 128, head_size: 64 }}
data: {{ data_type: jsonl, data_file: {data}, tokenizer: byte, ctx_len: 64 }}
train: {{ micro_bsz: 2, epoch_steps: 20, epoch_count: 1, lr_init: 3e-3, lr_final: 3e-3, precision: fp32 }}
save: {{ proj_dir: out, epoch_save: 0 }}
"""


def skip(why):
    print("skipped:", why)
    sys.exit(1 if os.environ.get("RWKV_REQUIRE_OFFICIAL") else 77)


def fetch_package(folder):
    """Unpacks the package and returns its folder."""
    given = os.environ.get("RWKV_OFFICIAL")
    if given:
        return given
    for pip in ([sys.executable, "-m", "pip"], ["pip3"], ["pip"]):
        command = [*pip, "download", "--quiet", "--no-deps", "--timeout", "20", "--retries", "1", "--dest", folder, PACKAGE]
        try:
            if subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=120).returncode == 0:
                break
        except (OSError, subprocess.TimeoutExpired):
            pass
    wheels = glob.glob(os.path.join(folder, "*.whl"))
    if not wheels:
        skip(f"PyPI gave no {PACKAGE}")
    with zipfile.ZipFile(wheels[0]) as wheel:
        wheel.extractall(folder)
    return folder


def train(folder, arch):
    """20 steps from initial values; returns the final file."""
    work = os.path.join(folder, arch)
    os.makedirs(work)
    with open(os.path.join(work, "recipe.yaml"), "w") as f:
        f.write(RECIPE.format(arch=arch, data=os.path.join(ROOT, "recipes/quickstart/data/train.jsonl")))
    subprocess.run([PROGRAM, "recipe.yaml"], cwd=work, check=True, capture_output=True)
    return os.path.join(work, "out", "rwkv-final.pth")


def ours(model):
    """The ids of our continuation: the byte tokenizer makes a byte b the id b + 1."""
    command = [PROGRAM, "generate", model, "--tokenizer", "byte", "--prompt", PROMPT, "--temperature", "0", "--tokens", str(TOKENS)]
    text = subprocess.run(command, check=True, capture_output=True).stdout
    assert text.startswith(PROMPT.encode()) and text.endswith(b"\n"), text
    return [byte + 1 for byte in text[len(PROMPT) : -1]]


def theirs(package, model, arch):
    prompt = [str(byte + 1) for byte in PROMPT.encode()]
    script = os.path.join(ROOT, "tests/interop/official_inference.py")
    result = subprocess.run([sys.executable, script, package, model, arch, str(TOKENS), *prompt], capture_output=True, text=True)
    if result.returncode != 0:
        print(result.stdout, result.stderr)
        sys.exit(1)
    ids = [int(i) for i in result.stdout.split("ids ")[-1].split()]
    return ids[: ids.index(0)] if 0 in ids else ids  # ours ends at the end of a document


def main():
    if subprocess.run([sys.executable, "-c", "import torch"], capture_output=True).returncode != 0:
        skip(f"{sys.executable} has no torch (apt-get install python3-torch)")
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        package = fetch_package(folder)
        for arch in ARCHS:
            model = train(folder, arch)
            a, b = ours(model), theirs(package, model, arch)
            same = a == b and len(a) > 0
            failed |= not same
            print(f"{arch}: {PACKAGE} and generate agree on {len(a)} tokens" if same else f"{arch}: ours {a}, theirs {b}")
    sys.exit(1 if failed else 0)


main()
