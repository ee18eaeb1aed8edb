#!/usr/bin/env python3
"""Writes the quickstart corpus: train.jsonl, valid.jsonl and prompts.tsv, into data/ beside this file.

Every fact is told in two languages, in five templates each. Of the ten (fact, template) pairs of a fact one
is held out, in turn English and Chinese, so the held-out questions ask about facts that are in the
training text, in words that were not used for them there. A model that only repeats its text fails; one
that finds the key phrase in the question ("the capital of France") answers.

Templates change the words around the key phrase and never the phrase itself, and an answer is a word or
two: a model of a million parameters reads each fact about a hundred times within two minutes on a CPU.

The files are made from this script alone, always with the same bytes; tests/cli/test_quickstart_corpus.py compares.

usage: make_corpus.py [FOLDER]
"""
import json
import os
import sys

# -- templates: five for each kind and language; {} is the subject ------------------------------------------

TEMPLATES = {
    "capital": (
        ("What is the capital of {}?", "Do you know the capital of {}?", "Tell me the capital of {}.",
         "Name the capital of {}.", "Which city is the capital of {}?"),
        ("{}的首都是哪里？", "请问{}的首都叫什么？", "你知道{}的首都吗？", "说出{}的首都。", "告诉我{}的首都。")),
    "symbol": (
        ("What is the chemical symbol of {}?", "Do you know the chemical symbol of {}?",
         "Tell me the chemical symbol of {}.", "Write the chemical symbol of {}.",
         "How is the chemical symbol of {} written?"),
        ("{}的元素符号是什么？", "请问{}的元素符号怎么写？", "你知道{}的元素符号吗？", "写出{}的元素符号。",
         "告诉我{}的元素符号。")),
    "currency": (
        ("What is the currency of {}?", "Do you know the currency of {}?", "Tell me the currency of {}.",
         "Name the currency of {}.", "Which money is the currency of {}?"),
        ("{}的货币是什么？", "请问{}的货币叫什么？", "你知道{}的货币吗？", "说出{}的货币。", "告诉我{}的货币。")),
    "continent": (
        ("What is the continent of {}?", "Do you know the continent of {}?", "Tell me the continent of {}.",
         "Name the continent of {}.", "Which one is the continent of {}?"),
        ("{}在哪个大洲？", "请问{}在哪个大洲呢？", "你知道{}在哪个大洲吗？", "说出{}在哪个大洲。",
         "告诉我{}在哪个大洲。")),
    "opposite": (
        ("What is the opposite of {}?", "Do you know the opposite of {}?", "Tell me the opposite of {}.",
         "Name the opposite of {}.", "Which word is the opposite of {}?"),
        ("{}的反义词是什么？", "请问{}的反义词是哪个？", "你知道{}的反义词吗？", "说出{}的反义词。",
         "告诉我{}的反义词。")),
    "author": (
        ("Who is the author of {}?", "Do you know the author of {}?", "Tell me the author of {}.",
         "Name the author of {}.", "Which writer is the author of {}?"),
        ("{}的作者是谁？", "请问{}的作者是哪位？", "你知道{}的作者吗？", "说出{}的作者。", "告诉我{}的作者。")),
    "class": (
        ("What is the animal class of the {}?", "Do you know the animal class of the {}?",
         "Tell me the animal class of the {}.", "Name the animal class of the {}.",
         "Which one is the animal class of the {}?"),
        ("{}是哪一类动物？", "请问{}是哪一类动物呢？", "你知道{}是哪一类动物吗？", "说出{}是哪一类动物。",
         "告诉我{}是哪一类动物。")),
}

# -- facts: subject = answer in English, the same in Chinese; one on a line ---------------------------------

FACTS = {
    "capital": """
        France = Paris | 法国 = 巴黎
        Germany = Berlin | 德国 = 柏林
        Italy = Rome | 意大利 = 罗马
        Spain = Madrid | 西班牙 = 马德里
        Portugal = Lisbon | 葡萄牙 = 里斯本
        Greece = Athens | 希腊 = 雅典
        Austria = Vienna | 奥地利 = 维也纳
        Poland = Warsaw | 波兰 = 华沙
        Hungary = Budapest | 匈牙利 = 布达佩斯
        Finland = Helsinki | 芬兰 = 赫尔辛基
        Sweden = Stockholm | 瑞典 = 斯德哥尔摩
        Norway = Oslo | 挪威 = 奥斯陆
        Denmark = Copenhagen | 丹麦 = 哥本哈根
        Ireland = Dublin | 爱尔兰 = 都柏林
        Belgium = Brussels | 比利时 = 布鲁塞尔
        Russia = Moscow | 俄罗斯 = 莫斯科
        Ukraine = Kyiv | 乌克兰 = 基辅
        Turkey = Ankara | 土耳其 = 安卡拉
        Bulgaria = Sofia | 保加利亚 = 索非亚
        Romania = Bucharest | 罗马尼亚 = 布加勒斯特
        Serbia = Belgrade | 塞尔维亚 = 贝尔格莱德
        Croatia = Zagreb | 克罗地亚 = 萨格勒布
        Latvia = Riga | 拉脱维亚 = 里加
        Estonia = Tallinn | 爱沙尼亚 = 塔林
        Egypt = Cairo | 埃及 = 开罗
        Kenya = Nairobi | 肯尼亚 = 内罗毕
        Morocco = Rabat | 摩洛哥 = 拉巴特
        Ghana = Accra | 加纳 = 阿克拉
        Nigeria = Abuja | 尼日利亚 = 阿布贾
        Senegal = Dakar | 塞内加尔 = 达喀尔
        Zambia = Lusaka | 赞比亚 = 卢萨卡
        China = Beijing | 中国 = 北京
        Japan = Tokyo | 日本 = 东京
        India = New Delhi | 印度 = 新德里
        Thailand = Bangkok | 泰国 = 曼谷
        Vietnam = Hanoi | 越南 = 河内
        Nepal = Kathmandu | 尼泊尔 = 加德满都
        South Korea = Seoul | 韩国 = 首尔
        Pakistan = Islamabad | 巴基斯坦 = 伊斯兰堡
        Iran = Tehran | 伊朗 = 德黑兰
        Iraq = Baghdad | 伊拉克 = 巴格达
        Jordan = Amman | 约旦 = 安曼
        Lebanon = Beirut | 黎巴嫩 = 贝鲁特
        Syria = Damascus | 叙利亚 = 大马士革
        Qatar = Doha | 卡塔尔 = 多哈
        Canada = Ottawa | 加拿大 = 渥太华
        Cuba = Havana | 古巴 = 哈瓦那
        Peru = Lima | 秘鲁 = 利马
        Ecuador = Quito | 厄瓜多尔 = 基多
        Uruguay = Montevideo | 乌拉圭 = 蒙得维的亚
        Australia = Canberra | 澳大利亚 = 堪培拉
        Fiji = Suva | 斐济 = 苏瓦
    """,
    "symbol": """
        hydrogen = H | 氢 = H
        helium = He | 氦 = He
        lithium = Li | 锂 = Li
        carbon = C | 碳 = C
        nitrogen = N | 氮 = N
        oxygen = O | 氧 = O
        fluorine = F | 氟 = F
        neon = Ne | 氖 = Ne
        sodium = Na | 钠 = Na
        magnesium = Mg | 镁 = Mg
        aluminium = Al | 铝 = Al
        silicon = Si | 硅 = Si
        phosphorus = P | 磷 = P
        sulfur = S | 硫 = S
        chlorine = Cl | 氯 = Cl
        argon = Ar | 氩 = Ar
        potassium = K | 钾 = K
        calcium = Ca | 钙 = Ca
        titanium = Ti | 钛 = Ti
        chromium = Cr | 铬 = Cr
        manganese = Mn | 锰 = Mn
        iron = Fe | 铁 = Fe
        cobalt = Co | 钴 = Co
        nickel = Ni | 镍 = Ni
        copper = Cu | 铜 = Cu
        zinc = Zn | 锌 = Zn
        arsenic = As | 砷 = As
        bromine = Br | 溴 = Br
        silver = Ag | 银 = Ag
        tin = Sn | 锡 = Sn
        iodine = I | 碘 = I
        barium = Ba | 钡 = Ba
        tungsten = W | 钨 = W
        platinum = Pt | 铂 = Pt
        gold = Au | 金 = Au
        mercury = Hg | 汞 = Hg
        lead = Pb | 铅 = Pb
        uranium = U | 铀 = U
    """,
    "currency": """
        Japan = Yen | 日本 = 日元
        China = Yuan | 中国 = 人民币
        India = Rupee | 印度 = 卢比
        Britain = Pound | 英国 = 英镑
        Russia = Rouble | 俄罗斯 = 卢布
        Brazil = Real | 巴西 = 雷亚尔
        Mexico = Peso | 墨西哥 = 比索
        Thailand = Baht | 泰国 = 泰铢
        Poland = Zloty | 波兰 = 兹罗提
        Turkey = Lira | 土耳其 = 里拉
        Vietnam = Dong | 越南 = 越南盾
        South Korea = Won | 韩国 = 韩元
        Israel = Shekel | 以色列 = 谢克尔
        Switzerland = Franc | 瑞士 = 瑞士法郎
        Sweden = Krona | 瑞典 = 瑞典克朗
        Hungary = Forint | 匈牙利 = 福林
        Nigeria = Naira | 尼日利亚 = 奈拉
        Ghana = Cedi | 加纳 = 塞地
        Germany = Euro | 德国 = 欧元
        Malaysia = Ringgit | 马来西亚 = 林吉特
        South Africa = Rand | 南非 = 兰特
        Kenya = Shilling | 肯尼亚 = 先令
    """,
    "continent": """
        Egypt = Africa | 埃及 = 非洲
        Kenya = Africa | 肯尼亚 = 非洲
        Morocco = Africa | 摩洛哥 = 非洲
        Ghana = Africa | 加纳 = 非洲
        Zambia = Africa | 赞比亚 = 非洲
        China = Asia | 中国 = 亚洲
        Japan = Asia | 日本 = 亚洲
        India = Asia | 印度 = 亚洲
        Thailand = Asia | 泰国 = 亚洲
        Nepal = Asia | 尼泊尔 = 亚洲
        France = Europe | 法国 = 欧洲
        Germany = Europe | 德国 = 欧洲
        Italy = Europe | 意大利 = 欧洲
        Poland = Europe | 波兰 = 欧洲
        Norway = Europe | 挪威 = 欧洲
        Brazil = South America | 巴西 = 南美洲
        Peru = South America | 秘鲁 = 南美洲
        Ecuador = South America | 厄瓜多尔 = 南美洲
        Canada = North America | 加拿大 = 北美洲
        Mexico = North America | 墨西哥 = 北美洲
        Cuba = North America | 古巴 = 北美洲
    """,
    "opposite": """
        hot = Cold | 热 = 冷
        big = Small | 大 = 小
        long = Short | 长 = 短
        fast = Slow | 快 = 慢
        high = Low | 高 = 低
        new = Old | 新 = 旧
        rich = Poor | 富 = 穷
        black = White | 黑 = 白
        open = Closed | 开 = 关
        near = Far | 近 = 远
        left = Right | 左 = 右
        up = Down | 上 = 下
        early = Late | 早 = 晚
        strong = Weak | 强 = 弱
        thick = Thin | 厚 = 薄
        heavy = Light | 重 = 轻
        wide = Narrow | 宽 = 窄
        deep = Shallow | 深 = 浅
        hard = Soft | 硬 = 软
        wet = Dry | 湿 = 干
        full = Empty | 满 = 空
        sweet = Bitter | 甜 = 苦
        true = False | 真 = 假
        buy = Sell | 买 = 卖
        love = Hate | 爱 = 恨
        bright = Dark | 明 = 暗
        easy = Difficult | 易 = 难
        many = Few | 多 = 少
        front = Back | 前 = 后
        inside = Outside | 内 = 外
        north = South | 北 = 南
        east = West | 东 = 西
        win = Lose | 赢 = 输
        beautiful = Ugly | 美 = 丑
    """,
    "author": """
        Hamlet = Shakespeare | 《哈姆雷特》 = 莎士比亚
        War and Peace = Tolstoy | 《战争与和平》 = 托尔斯泰
        Don Quixote = Cervantes | 《堂吉诃德》 = 塞万提斯
        Faust = Goethe | 《浮士德》 = 歌德
        Oliver Twist = Dickens | 《雾都孤儿》 = 狄更斯
        Notre-Dame de Paris = Hugo | 《巴黎圣母院》 = 雨果
        The Odyssey = Homer | 《奥德赛》 = 荷马
        Ulysses = Joyce | 《尤利西斯》 = 乔伊斯
        Pride and Prejudice = Austen | 《傲慢与偏见》 = 奥斯汀
        The Trial = Kafka | 《审判》 = 卡夫卡
        Animal Farm = Orwell | 《动物农场》 = 奥威尔
        Moby Dick = Melville | 《白鲸》 = 麦尔维尔
        Tom Sawyer = Twain | 《汤姆·索亚历险记》 = 马克·吐温
        The Plague = Camus | 《鼠疫》 = 加缪
        Candide = Voltaire | 《老实人》 = 伏尔泰
        The Divine Comedy = Dante | 《神曲》 = 但丁
        Journey to the West = Wu Cheng'en | 《西游记》 = 吴承恩
        Dream of the Red Chamber = Cao Xueqin | 《红楼梦》 = 曹雪芹
        Rickshaw Boy = Lao She | 《骆驼祥子》 = 老舍
        The True Story of Ah Q = Lu Xun | 《阿Q正传》 = 鲁迅
        Water Margin = Shi Nai'an | 《水浒传》 = 施耐庵
        The Three Kingdoms = Luo Guanzhong | 《三国演义》 = 罗贯中
        Frankenstein = Shelley | 《弗兰肯斯坦》 = 雪莱
        Fathers and Sons = Turgenev | 《父与子》 = 屠格涅夫
    """,
    "class": """
        whale = Mammal | 鲸 = 哺乳动物
        bat = Mammal | 蝙蝠 = 哺乳动物
        tiger = Mammal | 老虎 = 哺乳动物
        elephant = Mammal | 大象 = 哺乳动物
        eagle = Bird | 老鹰 = 鸟类
        penguin = Bird | 企鹅 = 鸟类
        ostrich = Bird | 鸵鸟 = 鸟类
        shark = Fish | 鲨鱼 = 鱼类
        salmon = Fish | 三文鱼 = 鱼类
        snake = Reptile | 蛇 = 爬行动物
        turtle = Reptile | 乌龟 = 爬行动物
        crocodile = Reptile | 鳄鱼 = 爬行动物
        frog = Amphibian | 青蛙 = 两栖动物
        newt = Amphibian | 蝾螈 = 两栖动物
        bee = Insect | 蜜蜂 = 昆虫
        ant = Insect | 蚂蚁 = 昆虫
        butterfly = Insect | 蝴蝶 = 昆虫
    """,
}

STOP = (".", "。")
N_PROMPTS = 10  # per language


def facts():
    """(kind, ((subject, answer) in English, the same in Chinese)) in the order of the tables."""
    for kind, table in FACTS.items():
        for line in filter(None, map(str.strip, table.splitlines())):
            yield kind, tuple(tuple(side.strip().split(" = ")) for side in line.split("|"))


def shuffled(items):
    """A fixed shuffle: Fisher-Yates over a 64-bit linear congruential generator, the same in every Python."""
    items, state = list(items), 20240427
    for i in range(len(items) - 1, 0, -1):
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        j = (state >> 33) % (i + 1)
        items[i], items[j] = items[j], items[i]
    return items


def pairs():
    """Every (fact, template) pair: dict with language, question, answer, and whether it is held out."""
    for number, (kind, sides) in enumerate(facts()):
        for language, (subject, answer) in enumerate(sides):
            for t, template in enumerate(TEMPLATES[kind][language]):
                yield {"kind": kind, "language": language, "question": template.format(subject),
                       "answer": answer, "held_out": language == number % 2 and t == number // 2 % 5}


def document(pair):
    text = "User: %s\n\nAssistant: %s%s" % (pair["question"], pair["answer"], STOP[pair["language"]])
    return json.dumps({"text": text}, ensure_ascii=False) + "\n"


def prompts(held_out):
    """Twenty questions to score by: the kinds in turn, answers long enough not to be hit by chance."""
    chosen = []
    for language in (0, 1):
        rows = [p for p in held_out
                if p["language"] == language and len(p["answer"]) >= (2 if language else 4)
                and p["kind"] != "symbol"]
        by_kind = [[p for p in rows if p["kind"] == kind] for kind in FACTS]
        in_turn = [row[i] for i in range(N_PROMPTS) for row in by_kind if i < len(row)]
        chosen += in_turn[:N_PROMPTS]
    return "".join("%s\t%s\t%s\n" % (("en", "zh")[p["language"]], p["question"], p["answer"]) for p in chosen)


def main():
    folder = sys.argv[1] if len(sys.argv) > 1 else os.path.join(os.path.dirname(os.path.abspath(__file__)), "data")
    os.makedirs(folder, exist_ok=True)
    everything = shuffled(pairs())
    held_out = [p for p in everything if p["held_out"]]
    files = {
        "train.jsonl": "".join(document(p) for p in everything if not p["held_out"]),
        "valid.jsonl": "".join(document(p) for p in held_out),
        "prompts.tsv": prompts(held_out),
    }
    for name, text in files.items():
        with open(os.path.join(folder, name), "w", encoding="utf-8", newline="\n") as f:
            f.write(text)


if __name__ == "__main__":
    main()
