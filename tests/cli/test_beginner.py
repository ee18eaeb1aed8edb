#!/usr/bin/env python3
"""What beginners do wrong: each mistake is answered with where, what and what to do, in English and in Chinese.

A case is what is written (a recipe with one thing changed, or a command line), the exit status, and what must be
said."""
import glob, os, shutil, signal, subprocess, sys, tempfile

import hold

PROGRAM = os.path.abspath(os.environ["RWKV_RUN"])
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
RECIPE = """device: cpu
model: { arch: x060, n_layer: 2, n_embd: 64 }
data: { data_type: jsonl, data_file: data.jsonl, tokenizer: byte, ctx_len: 16 }
train:
  micro_bsz: 1
  lr_init: 1e-4
  epoch_steps: 2
save: { proj_dir: out }
"""
# name: (replace in RECIPE, by, status, English, Chinese)
RECIPES = {
    "wrong path": ("data_file: data.jsonl", "data_file: date.jsonl", 2,
                   "r.yaml:3:38: data.data_file: no such file: 'date.jsonl' (did you mean 'data.jsonl'?)",
                   "r.yaml:3:38: data.data_file: 没有这个文件：'date.jsonl'（是否想写 'data.jsonl'？）"),
    "a path to nowhere": ("data_file: data.jsonl", "data_file: my/text.jsonl", 2,
                          "r.yaml:3:38: data.data_file: no such file: 'my/text.jsonl'; paths in a recipe begin at the folder of the recipe",
                          "没有这个文件：'my/text.jsonl'；配方里的路径从配方所在的文件夹算起"),
    "tab": ("  lr_init", "\tlr_init", 2, "r.yaml:6:1: a tab in the indentation; YAML allows only spaces there",
            "r.yaml:6:1: 缩进中有制表符；YAML 的缩进只能用空格"),
    "full-width colon": ("micro_bsz: 1", "micro_bsz： 1", 2,
                         "r.yaml:5:12: '：' is a full-width character; write ':' and a space",
                         "r.yaml:5:12: '：' 是全角字符；请写半角的 ':' 并在后面加一个空格"),
    "full-width comma": ("n_layer: 2, ", "n_layer: 2， ", 2, "r.yaml:2:32: '，' is a full-width character; write ','",
                         "r.yaml:2:32: '，' 是全角字符；请写半角的 ','"),
    "no space after the colon": ("lr_init: 1e-4", "lr_init:1e-4", 2, "r.yaml:6:10: a space is missing after ':'",
                                 "r.yaml:6:10: ':' 后面缺少空格"),
    "missing quote in the recipe": ("data_file: data.jsonl", 'data_file: "data.jsonl', 2,
                                    "a closing quote is missing", "缺少右引号"),
    "missing quote in the data": ("data_file: data.jsonl", "data_file: quote.jsonl", 1,
                                  "quote.jsonl:2:18: the JSON value is not complete; is a quote or a bracket missing?",
                                  "quote.jsonl:2:18: JSON 内容不完整：是否缺少引号或括号？"),
    "key content": ("data_file: data.jsonl", "data_file: content.jsonl", 1,
                    "content.jsonl:1:1: no key 'text' (found: 'content'); each line must hold the whole document under 'text'",
                    "content.jsonl:1:1: 没有键 'text'（找到：'content'）；每行应在 'text' 下放一篇完整的文档"),
    "GBK": ("data_file: data.jsonl", "data_file: gbk.jsonl", 1,
            "gbk.jsonl:1:11: byte 10 (0xc4) is not UTF-8; it looks like GBK; first run: iconv -f GB18030 -t UTF-8 < 'gbk.jsonl' > NEW",
            "gbk.jsonl:1:11: 字节 10（0xc4）不是 UTF-8，像是 GBK；请先运行：iconv -f GB18030 -t UTF-8 < 'gbk.jsonl' > 新文件"),
    "JSON array": ("data_file: data.jsonl", "data_file: array.jsonl", 1,
                   "array.jsonl:1: this is one JSON array, expected one object a line; first run: python3 -c",
                   "array.jsonl:1: 这是一个 JSON 数组，应为每行一个对象；请先运行：python3 -c"),
    "empty file": ("data_file: data.jsonl", "data_file: empty.jsonl", 1,
                   "empty.jsonl: it has no tokens to train on; put text into it, or name another file",
                   "empty.jsonl: 其中没有可训练的内容：没有 token；请放入文本，或改用别的文件"),
    "ctx_len beyond the data": ("ctx_len: 16", "ctx_len: 100000", 1,
                                "tokens are too few for ctx_len 100000: at least", "请增加文本，或减小 data.ctx_len"),
    "wrong n_layer": ("arch: x060, n_layer: 2, n_embd: 64", "load_model: base.pth, n_layer: 12", 2,
                      "r.yaml:2:41: model.n_layer: the recipe says 12, but base.pth has 2; leave this key out",
                      "r.yaml:2:41: model.n_layer: 配方写的是 12，但 base.pth 中是 2；请去掉这个键"),
    "another vocab_size": ("arch: x060, n_layer: 2, n_embd: 64", "load_model: base.pth, vocab_size: 65536", 2,
                           "r.yaml:2:44: model.vocab_size: the recipe says 65536, but base.pth has 257; leave this key out",
                           "r.yaml:2:44: model.vocab_size: 配方写的是 65536，但 base.pth 中是 257；请去掉这个键"),
    "space in a quoted path": ("data_file: data.jsonl", 'data_file: "data.jsonl "', 2,
                               "r.yaml:3:38: data.data_file: no such file: 'data.jsonl '; remove the space at the end of the name",
                               "r.yaml:3:38: data.data_file: 没有这个文件：'data.jsonl '；请去掉文件名末尾的空格"),
    "micro_bsz 0": ("micro_bsz: 1", "micro_bsz: 0", 2,
                    "r.yaml:5:14: train.micro_bsz: expected an integer from 1 to 65536, got '0'",
                    "r.yaml:5:14: train.micro_bsz: 应为 整数 从 1 到 65536，却是 '0'"),
    "comma at the end": ("lr_init: 1e-4", "lr_init: 1e-5,", 2, "r.yaml:6:16: train.lr_init: remove the ',' at the end",
                         "r.yaml:6:16: train.lr_init: 请去掉末尾的 ','"),
    "outside its section": ("save: {", "ctx_len: 512\nsave: {", 2,
                            "r.yaml:8:1: ctx_len: unknown key; 'ctx_len' belongs in the section 'data'",
                            "r.yaml:8:1: ctx_len: 未知的键；'ctx_len' 应写在 'data' 一节中"),
    "Lightning's keys": ("save: {", "max_epochs: 3\ndevices: 4\nsave: {", 2,
                         "r.yaml:8:1: max_epochs: not a key here: write train.epoch_count\n"
                         "r.yaml:9:1: devices: not a key here: a run uses one device; leave this key out",
                         "r.yaml:8:1: max_epochs: 这里没有这个键：请写 train.epoch_count"),
    "the tutorial's keys": ("save: {", 'devices: 1\nstrategy: deepspeed_stage_1\naccelerator: cpu\nwandb: ""\nsave: {', 0,
                            "r.yaml:9:11: strategy: there is no DeepSpeed here and none is needed; this changes nothing",
                            "r.yaml:8:10: devices: 一次训练只用一个设备；写不写都一样"),
    "vocab_size 0": ("n_layer: 2", "vocab_size: 0, n_layer: 2", 0,
                     "r.yaml:2:34: model.vocab_size: automatic: read from load_model, or given by the tokenizer",
                     "r.yaml:2:34: model.vocab_size: 自动：从 load_model 读出，或由分词器决定"),
    "a model that does not fit": ("n_layer: 2, n_embd: 64", "n_layer: 256, n_embd: 65536", 2,
                                  "r.yaml: model: too large for this machine: weights, gradients and Adam's moments take 208 TiB",
                                  "r.yaml: model: 本机装不下：权重、梯度和 Adam 动量需要 208 TiB"),
    "a batch that does not fit": ("micro_bsz: 1", "micro_bsz: 60000\n  accumulate: 1000", 2,
                                  "Lower train.micro_bsz (60000) or data.ctx_len (4096)",
                                  "请减小 train.micro_bsz（60000）或 data.ctx_len（4096）"),
    "a folder that is a file": ("proj_dir: out", "proj_dir: data.jsonl/out", 2,
                                "r.yaml:8:19: save.proj_dir: 'data.jsonl' is a file, not a folder; choose another save.proj_dir",
                                "r.yaml:8:19: save.proj_dir: 'data.jsonl' 是文件，不是文件夹；请换一个 save.proj_dir"),
}
FLAGS = "--load_model base.pth --proj_dir out --data_file data --data_type binidx --micro_bsz 1 --devices 1 --my_testing x060"
COMMANDS = {
    "no recipe": (["nope.yaml"], 2, "nope.yaml: no such recipe; a recipe is a YAML file such as recipes/quickstart/recipe.yaml",
                  "nope.yaml: 没有这个配方文件；配方是 YAML 文件，例如源码中的 recipes/quickstart/recipe.yaml"),
    "official flags": (FLAGS.split(), 2, "here they are a recipe, which is printed above. Save it as my.yaml, and run: rwkv-run my.yaml",
                       "在这里它们写成配方，已打印在上面。把它存为 my.yaml，然后运行：rwkv-run my.yaml"),
    "an official flag beside a recipe": (["r.yaml", "--micro_bsz", "2"], 2,
                                         "--micro_bsz: a flag of the official trainer; here: train.micro_bsz=VALUE",
                                         "--micro_bsz: 这是官方训练程序的参数；这里写：train.micro_bsz=值"),
}
LANGUAGES = {"en": 0, "zh": 1}


def write(path, content):
    with open(path, "wb") as f:
        f.write(content if isinstance(content, bytes) else content.encode())


def run(arguments, language, program=(PROGRAM,)):
    env = dict(os.environ, RWKV_LANG=language, RWKV_THREADS="1")
    done = subprocess.run([*program, *arguments], env=env, capture_output=True)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def check(name, language, found, status, said):
    problems = []
    if found[0] != status:
        problems.append("status %d, expected %d" % (found[0], status))
    if said not in found[2]:
        problems.append("not said: %s\n  said: %s" % (said, found[2][-400:]))
    return ["%s, %s: %s" % (name, language, p) for p in problems]


def recipes_and_commands():
    problems = []
    for name, (old, new, status, *said) in RECIPES.items():
        assert RECIPE.count(old) == 1, name
        text = RECIPE.replace(old, new)
        write("r.yaml", text.replace("ctx_len: 16", "ctx_len: 4096") if "batch" in name else text)
        for language, i in LANGUAGES.items():
            shutil.rmtree("out", ignore_errors=True)
            # mistakes in the data show when the data are read; what is no mistake needs no training
            found = run(["r.yaml"] if status == 1 else ["r.yaml", "--dry-run"], language)
            problems += check(name, language, found, status, said[i])
    write("r.yaml", RECIPE)
    for name, (arguments, status, *said) in COMMANDS.items():
        for language, i in LANGUAGES.items():
            problems += check(name, language, run(arguments, language), status, said[i])
    return problems


def no_permission():
    """Root may write anywhere, so the program runs as nobody where that can be."""
    as_nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups") if os.geteuid() == 0 else ()
    os.chmod(".", 0o755)
    os.mkdir("locked")
    os.chmod("locked", 0o555)
    write("r.yaml", RECIPE.replace("proj_dir: out", "proj_dir: locked/out"))
    if as_nobody and run([], "en", (*as_nobody, "true"))[0] != 0:
        print("skipped: nobody to be, so no permission is missing")
        return []
    if as_nobody and run(["--version"], "en", (*as_nobody, PROGRAM))[0] != 0:
        print("skipped: nobody cannot reach the program")
        return []
    problems = []
    for language, said in ("en", "r.yaml:8:19: save.proj_dir: choose another save.proj_dir: cannot write in 'locked': Permission denied"), \
            ("zh", "r.yaml:8:19: save.proj_dir: 请换一个 save.proj_dir：无法写入 'locked': 没有权限"):
        found = run(["r.yaml"], language, (*as_nobody, PROGRAM))
        problems += check("no permission", language, found, 2, said)
        if "micro_bsz 1 x ctx_len" in found[2]:
            problems.append("no permission is found after the plan")
    return problems


def stop_and_resume():
    """Ctrl-C saves, and the same command resumes; with another learning rate it says what differs, and without
    its state nothing is overwritten."""
    problems = []
    english = "resume", "resuming from", "train.lr_init: was 1e-4, now 2e-4", "nothing is overwritten"
    chinese = "继续", "继续训练：", "train.lr_init：原为 1e-4，现为 2e-4", "不会覆盖任何文件"
    for language, (resume, resumed, changed, kept) in ("en", english), ("zh", chinese):
        out = "stopped-" + language
        write("r.yaml", RECIPE.replace("epoch_steps: 2", "epoch_steps: 4000").replace("proj_dir: out", "proj_dir: " + out))
        env = dict(os.environ, RWKV_LANG=language, RWKV_THREADS="1")
        process = hold.start([PROGRAM, "r.yaml"], 3, env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        hold.wait_for(lambda: hold.events(out).count("step") == 3)
        process.send_signal(signal.SIGINT)
        hold.release()
        said = process.communicate()[1].decode()
        problems += check("Ctrl-C", language, (process.returncode, "", said), 3, resume)
        found = run(["r.yaml", "train.max_seconds=0.01"], language)
        problems += check("resume", language, found, 0, resumed)
        write("r.yaml", RECIPE.replace("epoch_steps: 2", "epoch_steps: 4000").replace("1e-4", "2e-4").replace("out", out))
        problems += check("lr changed", language, run(["r.yaml"], language), 2, changed)
        for state in glob.glob(out + "/state-*"):
            os.remove(state)
        problems += check("lr changed, state deleted", language, run(["r.yaml"], language), 2, kept)
    return problems


def official_recipe_runs():
    """What the flags are answered with is a recipe that this program takes."""
    found = run((FLAGS.replace("--data_file data --data_type binidx", "--data_file data.jsonl --data_type jsonl")
                 + " --epoch_steps 2 --ctx_len 16").split(), "en")
    write("my.yaml", found[1])
    shutil.rmtree("out", ignore_errors=True)
    done = run(["my.yaml", "data.tokenizer=byte", "--dry-run"], "en")
    return [] if done[0] == 0 else ["the recipe of the official flags: %s\n%s" % (done[2], found[1])]


def main():
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        with open(os.path.join(ROOT, "tests/cli/data.jsonl"), "rb") as f:
            write("data.jsonl", f.read())
        write("quote.jsonl", '{"text": "User: a"}\n{"text": "User: a}\n')
        write("content.jsonl", '{"content": "User: a"}\n')
        write("empty.jsonl", "")
        write("gbk.jsonl", '{"text": "你好，世界"}\n'.encode("gbk"))
        write("array.jsonl", '[\n{"text": "User: a"}\n]\n')
        write("r.yaml", RECIPE)
        if run(["r.yaml"], "en")[0] != 0:
            print("the recipe without a mistake fails")
            return 1
        os.rename("out/rwkv-final.pth", "base.pth")
        problems = recipes_and_commands() + no_permission() + stop_and_resume() + official_recipe_runs()
        os.chdir("/")
    print("\n".join(problems) if problems else "%d mistakes, each answered" % (len(RECIPES) + len(COMMANDS) + 5))
    return 1 if problems else 0


sys.exit(main())
