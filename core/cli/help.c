/* The texts of --help: the general one, and one for each command with all that it takes. */
#include "core/cli/options.h"

#include <string.h>

static const char *const general[] = {"rwkv-run trains RWKV language models.\n"
                                      "\n"
                                      "  rwkv-run RECIPE.yaml [KEY=VALUE ...]        train what the recipe says\n"
                                      "  rwkv-run generate MODEL.pth --prompt TEXT   continue a text\n"
                                      "  rwkv-run inspect FILE                       what a model or data file holds\n"
                                      "  rwkv-run tokenize IN.jsonl OUT_PREFIX       text to .bin and .idx\n"
                                      "  rwkv-run bench RECIPE.yaml                  how fast a step of it is here\n"
                                      "  rwkv-run doctor                             what this machine has and lacks\n"
                                      "  rwkv-run lua SCRIPT [ARG ...]               run a script by itself\n"
                                      "\n"
                                      "  rwkv-run COMMAND --help   the options of a command: train generate inspect\n"
                                      "                            tokenize bench doctor lua\n"
                                      "  --keys     every key of a recipe            --schema   the same for editors\n"
                                      "  --version  --help                           RWKV_LANG=zh  Chinese messages\n"
                                      "\n"
                                      "A first run:  sh recipes/quickstart/run.sh\n"
                                      "Exit status:  0 done  1 failed  2 mistake in the recipe or command line\n"
                                      "              3 stopped early, saved, can be resumed\n",
                                      "rwkv-run 训练 RWKV 语言模型。\n"
                                      "\n"
                                      "  rwkv-run 配方.yaml [键=值 ...]              按配方训练\n"
                                      "  rwkv-run generate MODEL.pth --prompt 文本   续写文本\n"
                                      "  rwkv-run inspect FILE                       查看模型或数据文件的内容\n"
                                      "  rwkv-run tokenize IN.jsonl OUT_PREFIX       文本转为 .bin 和 .idx\n"
                                      "  rwkv-run bench 配方.yaml                    测速，并与本机的极限比较\n"
                                      "  rwkv-run doctor                             检查本机：有什么、缺什么\n"
                                      "  rwkv-run lua SCRIPT [ARG ...]               在训练之外运行脚本\n"
                                      "\n"
                                      "  rwkv-run 命令 --help      某个命令的选项：train generate inspect tokenize\n"
                                      "                            bench doctor lua\n"
                                      "  --keys     配方的全部键                     --schema   供编辑器使用的格式\n"
                                      "  --version  --help                           RWKV_LANG=en  英文提示\n"
                                      "\n"
                                      "第一次运行：  sh recipes/quickstart/run.sh\n"
                                      "退出状态：    0 完成  1 失败  2 配方或命令行有误\n"
                                      "              3 提前停止，已保存，可继续\n"};

static const char *const train[] = {"rwkv-run RECIPE.yaml [KEY=VALUE ...]    train what the recipe says\n"
                                    "rwkv-run train RECIPE.yaml [...]        the same\n"
                                    "\n"
                                    "  KEY=VALUE                 sets a key, such as train.lr_init=2e-5;\n"
                                    "                            rwkv-run --keys lists them all\n"
                                    "  --dry-run                 print the plan (steps, memory, disk) and stop\n"
                                    "  --resume auto|never|PATH  resume a saved run; auto: if there is one\n"
                                    "  --restart                 begin anew; old files move into a subfolder\n"
                                    "  --trust                   scripts run without sandbox; any output folder\n"
                                    "  --env NAME                let the recipe read this variable (RWKV_* it may)\n"
                                    "  --allow-read PATH         let a recipe from elsewhere read this, too\n"
                                    "\n"
                                    "Ctrl-C saves and ends with status 3; the same command resumes.\n"
                                    "Flags of the official trainer (--load_model ...) are answered with the recipe\n"
                                    "that they mean.\n",
                                    "rwkv-run 配方.yaml [键=值 ...]          按配方训练\n"
                                    "rwkv-run train 配方.yaml [...]          同上\n"
                                    "\n"
                                    "  键=值                     这次改用另一个值，例如 train.lr_init=2e-5；\n"
                                    "                            rwkv-run --keys 列出全部的键\n"
                                    "  --dry-run                 打印计划（步数、内存、磁盘）后结束\n"
                                    "  --resume auto|never|PATH  继续已保存的训练；auto：有则继续\n"
                                    "  --restart                 重新开始；旧文件移入子文件夹\n"
                                    "  --trust                   脚本不受沙箱限制，输出可写到任何文件夹\n"
                                    "  --env NAME                允许配方读取该环境变量（RWKV_* 总是允许）\n"
                                    "  --allow-read PATH         允许别处的配方也读取它\n"
                                    "\n"
                                    "按 Ctrl-C 会保存，退出状态为 3；再运行同一条命令即可继续。\n"
                                    "官方训练程序的参数（--load_model ...）会得到含义相同的配方。\n"};

static const char *const generate[] = {
    "rwkv-run generate MODEL.pth --prompt TEXT    continue a text\n"
    "\n"
    "  --prompt TEXT           what the text begins with\n"
    "  --tokens 256            at most so many tokens\n"
    "  --temperature 1         0: the likeliest token each time\n"
    "  --top-p 1               below 1: only the likeliest tokens with this much\n"
    "                          probability together\n"
    "  --seed 0                another number, another text\n"
    "  --state FILE            initial states from a run with train_type: states\n"
    "  --device auto|cpu|cuda  auto: a GPU if one works\n"
    "  --precision WORD        of a GPU: bf16, fp16, tf32, fp32; else as the file\n"
    "  --tokenizer world|byte  byte where the vocabulary has at most 512 ids\n"
    "  --vocab FILE            the World vocabulary; also $RWKV_VOCAB\n"
    "\n"
    "On a terminal, control characters of the text are shown as \\x1b; a file or\n"
    "a pipe gets its bytes as they are.\n",
    "rwkv-run generate MODEL.pth --prompt 文本    续写文本\n"
    "\n"
    "  --prompt 文本           文本的开头\n"
    "  --tokens 256            最多生成多少个 token\n"
    "  --temperature 1         0：每次取概率最大的 token\n"
    "  --top-p 1               小于 1：只在概率之和达到此值的 token 中取\n"
    "  --seed 0                换一个数，得到另一段文本\n"
    "  --state FILE            train_type: states 训练写出的初始 state\n"
    "  --device auto|cpu|cuda  auto：有可用的 GPU 就用\n"
    "  --precision WORD        GPU 的精度：bf16、fp16、tf32、fp32；默认同文件\n"
    "  --tokenizer world|byte  词表不超过 512 个 id 时默认为 byte\n"
    "  --vocab FILE            World 词表；也可用 $RWKV_VOCAB\n"
    "\n"
    "输出到终端时，文本中的控制字符显示为 \\x1b 的形式；写入文件或管道时原样输出。\n"};

static const char *const inspect[] = {
    "rwkv-run inspect FILE [--verify]    what a file holds; nothing is changed\n"
    "\n"
    "  FILE.pth, FILE.safetensors   a model or a saved training state: architecture,\n"
    "                               sizes, every tensor\n"
    "  FILE.bin, FILE.idx           tokenized data: tokens, documents, largest id\n"
    "  --verify                     reads it all and compares its checksums\n",
    "rwkv-run inspect FILE [--verify]    查看文件的内容，不做任何改动\n"
    "\n"
    "  FILE.pth、FILE.safetensors   模型或训练状态：架构、大小、每个张量\n"
    "  FILE.bin、FILE.idx           分词后的数据：token 数、文档数、最大 id\n"
    "  --verify                     读完整个文件，核对校验和\n"};

static const char *const tokenize[] = {
    "rwkv-run tokenize IN.jsonl OUT_PREFIX    text to .bin and .idx\n"
    "rwkv-run tokenize --input IN.jsonl --output-prefix OUT_PREFIX [...]\n"
    "                  the same, as the official tools/preprocess_data.py has it\n"
    "\n"
    "  --vocab FILE            the World vocabulary; also $RWKV_VOCAB\n"
    "  --tokenizer world|byte\n"
    "  --dtype int32           as preprocess_data.py: OUT_PREFIX_text_document.bin\n"
    "                          and .idx, 4 bytes a token, empty documents left out\n"
    "          uint16          as make_data.py: OUT_PREFIX.bin, .idx, 2 bytes a\n"
    "                          token, empty documents kept as a lone id 0\n"
    "  --force                 replace OUT_PREFIX where it is there already\n"
    "\n"
    "Id 0 ends each document. Of the official arguments, --dataset-impl mmap,\n"
    "--tokenizer-type RWKVTokenizer, --append-eod, --jsonl-keys text, --num-docs,\n"
    "--workers and --log-interval change nothing here. Training reads .jsonl too:\n"
    "this step can be left out.\n",
    "rwkv-run tokenize IN.jsonl OUT_PREFIX    文本转为 .bin 和 .idx\n"
    "rwkv-run tokenize --input IN.jsonl --output-prefix OUT_PREFIX [...]\n"
    "                  同上，参数与官方教程的 tools/preprocess_data.py 相同\n"
    "\n"
    "  --vocab FILE            World 词表；也可用 $RWKV_VOCAB\n"
    "  --tokenizer world|byte\n"
    "  --dtype int32           同 preprocess_data.py：OUT_PREFIX_text_document.bin、\n"
    "                          .idx，每个 token 4 字节，略去空文档\n"
    "          uint16          同 make_data.py：OUT_PREFIX.bin 和 .idx，每个 token\n"
    "                          2 字节，空文档保留为单独的 id 0\n"
    "  --force                 OUT_PREFIX 已存在时替换它\n"
    "\n"
    "每篇文档以 id 0 结尾。官方参数 --dataset-impl mmap、--append-eod、\n"
    "--tokenizer-type RWKVTokenizer、--jsonl-keys text、--num-docs、--workers、\n"
    "--log-interval 可以照写，在这里不起作用。训练也能直接读 .jsonl，这一步可省。\n"};

static const char *const bench[] = {"rwkv-run bench RECIPE.yaml [KEY=VALUE ...]    how fast a step of the recipe is\n"
                                    "\n"
                                    "  --steps N   measure N steps; otherwise as many as six seconds allow\n"
                                    "  --json      as one line of JSON\n"
                                    "  --trust --env NAME --allow-read PATH   as when training\n"
                                    "\n"
                                    "Some steps with random weights on random tokens; nothing is written. Prints\n"
                                    "tokens a second, memory, the time of each kernel alone, and the floor: what\n"
                                    "the step's products and the bytes that it has to move take here, measured in\n"
                                    "the same run.\n",
                                    "rwkv-run bench 配方.yaml [键=值 ...]    测量配方一步的速度\n"
                                    "\n"
                                    "  --steps N   测 N 步；不写则测约六秒\n"
                                    "  --json      输出一行 JSON\n"
                                    "  --trust --env NAME --allow-read PATH   与训练时相同\n"
                                    "\n"
                                    "用随机权重和随机 token 跑若干步，不写任何文件。打印每秒 token 数、内存、各内核\n"
                                    "单独运行的时间，以及下限：同一次运行中测得的矩阵乘法时间，加上必须搬运的字节\n"
                                    "所需的时间。\n"};

static const char *const doctor[] = {
    "rwkv-run doctor    what this machine has for training, and what is missing\n"
    "\n"
    "GPUs, driver and CUDA libraries; processor and its BLAS, measured by a product\n"
    "of at most two seconds; memory, disk, WSL2, containers; which device a recipe\n"
    "with device: auto would take, and why. Nothing is changed.\n",
    "rwkv-run doctor    检查本机：训练所需的东西有哪些，缺哪些\n"
    "\n"
    "GPU、驱动与 CUDA 库；处理器及其 BLAS（用不超过两秒的矩阵乘法实测）；内存、\n"
    "磁盘、WSL2、容器；配方写 device: auto 时会用哪个设备，以及原因。不做任何改动。\n"};

static const char *const lua[] = {"rwkv-run lua SCRIPT [ARG ...]    run a script by itself\n"
                                  "\n"
                                  "All that follows SCRIPT belongs to the script. lua/README.md describes what it\n"
                                  "can call.\n",
                                  "rwkv-run lua SCRIPT [ARG ...]    在训练之外运行脚本\n"
                                  "\n"
                                  "SCRIPT 之后的一切都交给脚本。可以调用的函数见 lua/README.zh.md。\n"};

const char *rw_options_help(rw_command topic) {
    static const char *const *const texts[] = {[RW_COMMAND_HELP] = general,      [RW_COMMAND_TRAIN] = train,
                                               [RW_COMMAND_GENERATE] = generate, [RW_COMMAND_INSPECT] = inspect,
                                               [RW_COMMAND_TOKENIZE] = tokenize, [RW_COMMAND_DOCTOR] = doctor,
                                               [RW_COMMAND_BENCH] = bench,       [RW_COMMAND_LUA] = lua};
    return texts[topic][strcmp(rw_language(), "zh") == 0];
}
