#!/usr/bin/env python3
"""Whatever the program says to people has a row in a messages.def, so that it can be said in Chinese.

    python3 tests/cli/test_messages.py           file:line: the text that has no row; nothing when all have
    python3 tests/cli/test_messages.py --list    every text that needs a row, with the file that says it first

A text is found where it is given to one of SPEAKERS, or to a function that passes a parameter on to one of them, or
in a table of which a column is given to one. A ternary of texts is two texts. Words that are put into a text ("%s")
are asked for with rw_message() themselves. What needs no row:

  - a text without words ("%s: %s"), or of choices ("int32|uint16");
  - what only a bug in this program can bring about: RW_E_INTERNAL, RW_E_SHAPE from an op of core/tensor, rw_debug();
  - kernels/bench, a tool of ours; lua/pattern.c and table.c, which repeat the texts of Lua's own library;
  - what machines read: plan.yaml, metrics.jsonl, the JSON Schema.

Every row is said by its own folder, is in one list only, and is translated: the English again means that it is the
same in Chinese ("MiB")."""

import os
import re
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

# Functions and macros that speak, and which argument is the text. Those marked RW_PRINTF are found by the mark.
SPEAKERS = {
    "rw_fail": 3, "rw_vfail": 3, "rw_fail_errno": 2, "rw_log": 1, "rw_info": 0, "rw_warn": 0, "rw_message": 0,
    "rw_problems_add": 2,
    "WHEN": 0, "RW_KEY": 6, "RW_KEY_ONLY": 6,  # keys.def: words for no default; the unit
}
LIBRARIES = {("core/base/error.c", "strerror_r"), ("core/recipe/yaml.c", "problem"),
             ("lua/sandbox.c", "luaL_checkstring"), ("core/recipe/keys_print.c", "k")}
BUILDERS = {"rw_writer_printf"}  # marked RW_PRINTF, but they write files

# In these files all that is printed or put together is for people, and must be asked for with rw_message().
PRINTERS = ["core/plan/plan_print.c", "core/metrics/console.c", "core/checkpoint/inspect.c", "core/train/",
            "core/cli/command_"]
PRINTING = {"printf": 0, "fprintf": 1, "fputs": 0, "puts": 0, "snprintf": 2, "rw_str_append": 1, "rw_str_appendf": 1}
LUA = {"luaL_error": 1, "lua_pushfstring": 1, "lua_pushliteral": 1}  # in lua/*.c

SILENT = ("kernels/bench/", "lua/pattern.c", "lua/table.c")
MACROS = {"RW_VOCAB_NAME": "rwkv_vocab_v20230424.txt", "PRId64": "ld", "PRIu64": "lu"}

TOKEN = re.compile(r'"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'|[A-Za-z_]\w*|->|\S')
COMMENT = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.S)
OPEN, CLOSE = "([{", ")]}"


def read(path):
    with open(os.path.join(ROOT, path), encoding="utf-8") as f:
        return f.read()


def paths():
    for top in ("core", "kernels", "lua"):
        for folder, _, names in os.walk(os.path.join(ROOT, top)):
            for name in sorted(names):
                path = os.path.relpath(os.path.join(folder, name), ROOT)
                if name.endswith((".c", ".h", ".cu", ".cuh", ".def", ".lua")) and not path.startswith(SILENT):
                    yield path


def folder_of(path):
    parts = path.split("/")
    return "/".join(parts[:2]) if parts[0] == "core" else parts[0]


def conversions(text):
    return [c for c in re.findall(r"%[-+ #0-9.*hlLqjzt]*[a-zA-Z%]", text) if c != "%%"]


def has_words(text):
    """Whether anything is left to translate without conversions and escapes."""
    if re.fullmatch(r"[\w|.-]*\|[\w|.-]*", text):
        return False  # choices
    return re.search(r"[A-Za-z]{2}", re.sub(r"%[-+ #0-9.*hlLqjzt]*[a-zA-Z%]|\\.", " ", text)) is not None


class Source:
    """The tokens of a C file; `line[i]` and `close[i]`, the bracket that matches the one at i."""

    def __init__(self, path):
        self.path = path
        text = COMMENT.sub(lambda m: m.group() if m.group()[0] in "\"'" else re.sub(r"[^\n]", " ", m.group()), read(path))
        text = re.sub(r"(?m)^[ \t]*#[ \t]*(include|pragma).*$", "", text).replace("\\\n", " \n")
        self.tokens, self.line, n, at = [], [], 1, 0
        for m in TOKEN.finditer(text):
            n += text.count("\n", at, m.start())
            at = m.start()
            self.tokens.append(m.group())
            self.line.append(n)
        self.close, stack = {}, []
        for i, t in enumerate(self.tokens):
            if t in OPEN and len(t) == 1:
                stack.append(i)
            elif t in CLOSE and len(t) == 1 and stack:
                self.close[stack.pop()] = i
        self.functions = list(self.find_functions())

    def split(self, begin, end, at=","):
        """The ranges between the commas of [begin, end) that are in no bracket."""
        i, start = begin, begin
        while i < end:
            if self.tokens[i] in at:
                yield start, i
                start = i + 1
            i = self.close.get(i, i) + 1
        if start < end:
            yield start, end

    def find_functions(self):
        """(name, parameters, first and last token of the body, static) of each definition: `name(...) {`."""
        for i, t in enumerate(self.tokens):
            if t != "(" or i == 0 or i not in self.close or not re.match(r"[A-Za-z_]", self.tokens[i - 1]):
                continue
            end = self.close[i]
            if end + 1 < len(self.tokens) and self.tokens[end + 1] == "{" and self.tokens[i - 1] not in ("if", "for", "while", "switch"):
                names = []
                for a, b in self.split(i + 1, end):
                    words = [w for w in self.tokens[a:b] if re.match(r"[A-Za-z_]", w)]
                    names.append(words[-1] if words else "")
                head = self.tokens[max(0, i - 8):i]
                yield self.tokens[i - 1], names, end + 1, self.close.get(end + 1, end + 1), "static" in head

    def calls(self, names):
        for i in range(len(self.tokens) - 1):
            if self.tokens[i] in names and self.tokens[i + 1] == "(" and i + 1 in self.close:
                if i and (self.tokens[i - 1] in ("define", "*") or re.fullmatch(r"(?!return\b|else\b)[A-Za-z_]\w*", self.tokens[i - 1])):
                    continue  # a declaration or definition
                yield i, list(self.split(i + 2, self.close[i + 1]))

    def enclosing(self, i):
        for f in self.functions:
            if f[2] <= i <= f[3]:
                return f
        return None


class Checker:
    def __init__(self):
        self.sources = [Source(p) for p in paths() if not p.endswith(("messages.def", ".lua"))]
        self.speakers = dict(SPEAKERS)  # name, or path:name of a static function -> argument
        self.carriers = {}  # the same, of a parameter that is put into a text
        self.texts, self.problems = [], []
        self.find_marked()
        self.find_passing()

    # -- who speaks

    def find_marked(self):
        for s in self.sources:
            for i, t in enumerate(s.tokens):
                if t != "RW_PRINTF" or s.tokens[i - 1] != ")":
                    continue
                begin = next(b for b, e in s.close.items() if e == i - 1)
                name = s.tokens[begin - 1]
                if name not in BUILDERS:
                    static = "static" in s.tokens[max(0, begin - 5):begin]
                    self.speakers[f"{s.path}:{name}" if static else name] = int(s.tokens[i + 2]) - 1

    def index_of(self, s, name):
        return self.speakers.get(f"{s.path}:{name}", self.speakers.get(name))

    def names_in(self, s):
        return {n.split(":")[-1] for n in self.speakers if ":" not in n or n.startswith(s.path + ":")}

    def find_passing(self):
        """Functions that give a parameter of theirs to a speaker, until no new one is found."""
        before = -1
        while before != len(self.speakers):
            before = len(self.speakers)
            for s in self.sources:
                for i, args in s.calls(self.names_in(s)):
                    f, at = s.enclosing(i), self.index_of(s, s.tokens[i])
                    if not f or at is None or at >= len(args) or s.tokens[i] == f[0]:
                        continue
                    name = f"{s.path}:{f[0]}" if f[4] else f[0]
                    for k, (a, b) in enumerate(args[at:]):
                        word = s.tokens[a] if b - a == 1 else None
                        if word in f[1] and k == 0:
                            self.speakers.setdefault(name, f[1].index(word))
                        elif word in f[1] and s.tokens[i] != "rw_message":
                            self.carriers.setdefault(name, f[1].index(word))

    # -- what they say

    def check_text(self, s, a, b, function):
        tokens = s.tokens[a:b]
        while b - a > 1 and s.tokens[a] == "(" and s.close.get(a) == b - 1:
            a, b = a + 1, b - 1
            tokens = s.tokens[a:b]
        if all(t[0] == '"' or t in MACROS for t in tokens):
            self.texts.append(("".join(t[1:-1] if t[0] == '"' else MACROS[t] for t in tokens), s.path, s.line[a]))
            return
        parts = list(s.split(a, b, "?"))
        if len(parts) > 1:
            halves = list(s.split(parts[0][1] + 1, b, ":"))
            # a ? b : c ? d : e: what comes before the last '?' of each part is a condition
            for x, y in halves:
                inner = list(s.split(x, y, "?"))
                self.check_text(s, *(inner[-1] if len(inner) > 1 else (x, y)), function)
            return
        if function and len(tokens) == 1 and tokens[0] in function[1]:
            return  # a parameter: its callers are checked
        if tokens[0] in ("rw_message", "NULL", "__VA_ARGS__") or (s.path, tokens[0]) in LIBRARIES:
            return
        if self.check_table(s, a, b):
            return
        self.problems.append(f"{s.path}:{s.line[a]}: give the text itself, not {' '.join(tokens)}")

    def check_table(self, s, a, b):
        """NAME[...], NAME[...].FIELD or NAME->FIELD: the strings of that column of a table of this file."""
        name, pointer = s.tokens[a], s.tokens[a + 1:a + 2] == ["->"]
        field = s.tokens[b - 1] if s.tokens[b - 2] in (".", "->") else None
        for i in range(2, len(s.tokens) - 4):
            j = i + 1
            if (s.tokens[i] != name and not pointer) or s.tokens[j] != "[" or j not in s.close:
                continue
            j = s.close[j] + 1
            if s.tokens[j:j + 2] != ["=", "{"] or (pointer and self.column(s, i, field) is None):
                continue
            column = self.column(s, i, field)
            for x, y in s.split(j + 2, s.close[j + 1]):
                cells = list(s.split(x + 1, y - 1)) if s.tokens[x] == "{" else [(x, y)]
                if field is None or (column is not None and column < len(cells)):
                    c, d = cells[column or 0]
                    while s.tokens[c] in "[=" or s.tokens[c - 1] == "[" or s.tokens[c] == "]":
                        c += 1  # a designator
                    self.check_text(s, c, d, None)
            return field is None or column is not None
        return False

    def column(self, s, i, field):
        """Which member of the struct in front of token i is called `field`."""
        if s.tokens[i - 1] != "}":
            names = [j for j, t in enumerate(s.tokens) if t == s.tokens[i - 1] and s.tokens[j - 1] == "}"]
            if not names:
                return None
            i = names[0]
        begin = next(b for b, e in s.close.items() if e == i - 1)
        members = []
        for a, b in s.split(begin + 1, i - 1, ";"):
            for x, y in s.split(a, b):
                words = [w for w in s.tokens[x:y] if re.match(r"[A-Za-z_]\w*$", w)]
                members.append(words[-1])
        return members.index(field) if field in members else None

    def check_source(self, s):
        for i, args in s.calls(self.names_in(s)):
            at = self.index_of(s, s.tokens[i])
            codes = {s.tokens[k] for a, b in args for k in range(a, b)}
            bug = "RW_E_INTERNAL" in codes or (s.path.startswith("core/tensor/") and "RW_E_SHAPE" in codes)
            if at is None or at >= len(args) or bug:
                continue
            function = s.enclosing(i)
            self.check_text(s, *args[at], function)
            for a, b in args[at + 1:] if s.tokens[i].islower() else []:
                self.check_bare(s, a, b)
        for i, args in s.calls({n.split(":")[-1] for n in self.carriers}):
            at = self.carriers.get(f"{s.path}:{s.tokens[i]}", self.carriers.get(s.tokens[i]))
            if at is not None and at < len(args):
                self.check_bare(s, *args[at])
        printing = dict(PRINTING) if s.path.startswith(tuple(PRINTERS)) else {}
        printing.update(LUA if s.path.startswith("lua/") else {})
        for i, args in s.calls(printing):
            for a, b in args[printing[s.tokens[i]]:]:
                self.check_bare(s, a, b)

    def check_bare(self, s, a, b):
        """A text in [a, b) that is not asked for with rw_message()."""
        i = a
        while i < b:
            if s.tokens[i] == "(" and re.match(r"[A-Za-z_]", s.tokens[i - 1]):
                i = s.close[i]  # of another call
            elif s.tokens[i][0] == '"' and is_sentence(s.tokens[i][1:-1]):
                self.problems.append(f"{s.path}:{s.line[i]}: not in the user's language, say rw_message({s.tokens[i]})")
            i += 1

    # -- Lua

    def check_lua(self, path):
        text = read(path)
        for m in re.finditer(r'\bmessage\(?\s*"((?:\\.|[^"\\])*)"', text):
            self.texts.append((m.group(1), path, text.count("\n", 0, m.start()) + 1))
        for m in re.finditer(r'\berror\(\(?"', text):
            self.problems.append(f"{path}:{text.count(chr(10), 0, m.start()) + 1}: say error(rwkv.message(...))")

    # -- rows

    def rows(self):
        """text -> (translation, path, line, ours): ours is false for what libraries say."""
        literal = r'"(?:\\.|[^"\\\n])*"'
        strings = rf"{literal}(?:\s*{literal})*"
        join = lambda t: "".join(x[1:-1] for x in re.findall(literal, t))
        found = {}
        for path in paths():
            if not path.endswith("/messages.def"):
                continue
            text, ours = read(path), True
            for m in re.finditer(rf"(/\*.*?\*/)|RW_MESSAGE\(\s*({strings})\s*,\s*({strings})\s*\)", text, re.S):
                if m.group(1):
                    ours = not re.match(r"/\* (errno|libyaml)", m.group(1))
                    continue
                english, chinese, line = join(m.group(2)), join(m.group(3)), text.count("\n", 0, m.start()) + 1
                if english in found:
                    self.problems.append(f"{path}:{line}: already in {found[english][1]}: {english}")
                if chinese.isascii() and chinese != english:
                    self.problems.append(f"{path}:{line}: not translated: {english}")
                if conversions(english) != conversions(chinese):
                    self.problems.append(f"{path}:{line}: the translation has other conversions: {english}")
                found[english] = chinese, path, line, ours
            if text.count("RW_MESSAGE(") - text.count("RW_MESSAGE(english") != sum(r[1] == path for r in found.values()):
                self.problems.append(f"{path}: not every RW_MESSAGE(...) could be read")
        return found

    def run(self):
        for s in self.sources:
            self.check_source(s)
        for path in paths():
            if path.startswith("lua/rwkv/"):
                self.check_lua(path)
        rows, said = self.rows(), {}
        for text, path, line in self.texts:
            said.setdefault(text, set()).add(folder_of(path))
            if has_words(text) and text not in rows:
                self.problems.append(f"{path}:{line}: no row in {folder_of(path)}/messages.def: {text}")
        for english, (_, path, line, ours) in rows.items():
            if ours and folder_of(path) not in said.get(english, ()):
                self.problems.append(f"{path}:{line}: {folder_of(path)} does not say: {english}")
        return sorted(set(self.problems))


def is_sentence(text):
    """Words with a space between them, and neither JSON nor a comment of YAML."""
    return has_words(text) and re.search(r"[a-z]{2}.* |  *[a-z]{2}", text) is not None and not re.search(r'\\":|^# ', text)


def main():
    checker = Checker()
    problems = checker.run()
    if "--list" in sys.argv[1:]:
        for text, path, line in checker.texts:
            print(f"{path}:{line}: {text}")
        return 0
    print("\n".join(problems) if problems else f"{len(checker.texts)} texts, each with its row")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
