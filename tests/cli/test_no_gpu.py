#!/usr/bin/env python3
"""Without a GPU, in a program built with CUDA or without: what asks for one ends with status 1 and one line that says why, in
both languages; `auto` takes the CPU and the plan says why; doctor and bench work. Where there is a GPU it is hidden."""
import json, os, re, shutil, subprocess, sys, tempfile

PROGRAM = os.path.abspath(os.environ["RWKV_RUN"])
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
RECIPE = """device: auto
model: { arch: x060, n_layer: 2, n_embd: 64 }
data: { data_type: jsonl, data_file: data.jsonl, tokenizer: byte, ctx_len: 16 }
train: { batch_size: 4, epoch_steps: 2, checkpoint: auto }
device_memory: 1GiB
engine: { graph: on }
save: { proj_dir: out }
"""
WHY = {  # one of these, whatever was built and whatever driver there is
    "en": ["this program was built without CUDA; build it where nvcc is (cmake --preset cuda), or set device: cpu",
           "no NVIDIA driver was found (libcuda.so.1); install it", "the NVIDIA driver is too old",
           "the NVIDIA driver shows no GPU; see what nvidia-smi -L and CUDA_VISIBLE_DEVICES say"],
    "zh": ["本程序编译时没有 CUDA；请在装有 nvcc 的机器上编译（cmake --preset cuda），或设 device: cpu",
           "没有找到 NVIDIA 驱动（libcuda.so.1）；请安装", "NVIDIA 驱动太旧",
           "NVIDIA 驱动没有显示 GPU；请查看 nvidia-smi -L 和 CUDA_VISIBLE_DEVICES"],
}
problems = []


def check(right, *what):
    if not right:
        problems.append(" ".join(str(w) for w in what))


def run(status, *arguments, language="en"):
    env = dict(os.environ, RWKV_LANG=language, RWKV_THREADS="1", CUDA_VISIBLE_DEVICES="")
    done = subprocess.run([PROGRAM, *arguments], env=env, capture_output=True, encoding="utf-8", errors="replace")
    check(done.returncode == status, arguments, "ended with", done.returncode, done.stderr)
    return done.stdout, done.stderr


def says_why(text, language):
    return any(why in text for why in WHY[language])


def refused(place, *arguments):
    for language in WHY:
        out, err = run(1, *arguments, language=language)
        check(out == "" and err.count("\n") == 1, arguments, "is not told in one line:", out, err)
        check(says_why(err, language) and place in err, arguments, language, "is told", err)


def test_train():
    refused("device: ", "r.yaml", "device=cuda")
    with open("cuda.yaml", "w") as f:
        f.write(RECIPE.replace("auto", "cuda", 1))
    refused("cuda.yaml:1:9: device: ", "cuda.yaml")
    check(not os.path.exists("out"), "a refused run has written something")
    for language in WHY:
        plan, _ = run(0, "r.yaml", "--dry-run", language=language)
        line = next((line for line in plan.split("\n") if says_why(line, language)), "")
        check(line.startswith(("  no GPU ", "  没有 GPU ")), "the plan does not say why:", plan)
        check(re.search("cpu(: |：)OpenBLAS", plan), "the plan has another device:", plan)
    out, _ = run(0, "r.yaml")
    check(os.path.exists("out/rwkv-final.pth"), "auto has not trained:", out)


def test_generate():
    asked = ["generate", "out/rwkv-final.pth", "--prompt", "ab", "--tokens", "4"]
    refused("", *asked, "--device", "cuda")
    refused("", *asked, "--device", "cuda", "--precision", "fp16")
    check(run(0, *asked) == run(0, *asked, "--device", "cpu"), "auto and cpu say different things")


def test_doctor():
    rows = {"en": ["rwkv-run", "this program", "processor", "OpenBLAS", "memory", "disk", "device: auto", "because"],
            "zh": ["rwkv-run", "本程序", "处理器", "OpenBLAS", "内存", "磁盘", "device: auto", "原因"]}
    for language in rows:
        out, err = run(0, "doctor", language=language)
        check(err == "", "doctor:", err)
        lines = out.split("\n")
        for row in rows[language]:
            check(any(line.startswith("  " + row + " ") for line in lines), "doctor has no row", row, out)
        check(says_why(lines[-2], language), "doctor does not end with the reason:", out)
        check(re.search(r"\d GFLOP/s", out), "doctor has made no product:", out)


def test_bench():
    before = sorted(os.listdir("."))
    text, _ = run(0, "bench", "r.yaml", "--steps", "2")
    for row in ["tokens a second", "step", "products", "memory taken", "floor", "matmul", "wkv6_backward", "together"]:
        check(re.search(r"^ +%s +\d" % row, text, re.M), "bench has no row", row, text)
    chinese, _ = run(0, "bench", "r.yaml", "--steps", "2", language="zh")
    check(re.search("每秒 token 数 +\\d", chinese), "bench in Chinese:", chinese)
    found = json.loads(run(0, "bench", "r.yaml", "train.micro_bsz=2", "--steps", "2", "--json")[0])
    check(found["arch"] == "x060" and found["micro_bsz"] == 2 and found["accumulate"] == 2, "bench --json:", found)
    for key in ["tokens_per_second", "step_seconds", "fastest_step_seconds", "product_flop", "floor_seconds", "copy_bytes_per_second"]:
        check(found[key] > 0, "bench --json:", key, found[key])
    check(found["device_bytes"] == found["planned_bytes"], "bench takes", found["device_bytes"], "planned", found["planned_bytes"])
    check(found["kernels"]["adamw"]["calls"] > 0 and found["kernels"]["matmul"]["seconds"] > 0, "bench --json:", found["kernels"])
    refused("device: ", "bench", "r.yaml", "device=cuda")
    check(sorted(os.listdir(".")) == before, "bench has written something:", os.listdir("."))


def main():
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        with open("r.yaml", "w") as f:
            f.write(RECIPE)
        shutil.copy(os.path.join(ROOT, "tests/cli/data.jsonl"), "data.jsonl")
        for test in [test_train, test_generate, test_doctor, test_bench]:
            test()
        os.chdir("/")
    print("\n".join(problems) if problems else "training, generation, doctor and bench without a GPU: as they should be")
    return 1 if problems else 0


sys.exit(main())
