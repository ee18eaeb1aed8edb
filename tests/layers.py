#!/usr/bin/env python3
"""Checks the shape of the source tree: which folder includes which and links to which, that no files include each
other in a circle, who may see whose library, where memory comes from, and that each header compiles alone, as C11 and
as C++.

    python3 tests/layers.py            all checks
    python3 tests/layers.py --quick    without compiling headers

The table is the include rule of the house: data flows one way. A folder may include itself and what its line names.
A name that ends in .h or .def opens that one file only."""

import concurrent.futures
import os
import re
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PLAN = "core/recipe/plan.h"  # structs only
ARCH = "core/model/arch.h"  # tables of architectures
FORMATS = "core/recipe/formats.def"
ARCHS, DIMS = "core/recipe/archs.def", "core/recipe/dims.def"
DATA_ONLY = {PLAN, FORMATS, ARCHS, DIMS}  # nothing in them needs a library

LAYERS = {
    "core/base": [],
    "core/recipe": ["core/base"],
    "kernels": ["core/base"],
    "core/tensor": ["core/base", "kernels"],
    "core/data": ["core/base", PLAN, FORMATS],
    "core/model": ["core/base", "core/tensor", PLAN, ARCHS, DIMS],
    "core/dist": ["core/base", "core/tensor"],
    "core/optim": ["core/base", "core/tensor", "kernels", ARCH, PLAN],
    "core/checkpoint": ["core/base", "core/tensor", "core/data", "core/optim", ARCH, PLAN],
    "core/metrics": ["core/base", PLAN],
}
LAYERS["core/engine"] = list(LAYERS)
LAYERS["core/plan"] = LAYERS["core/engine"] + ["core/engine"]
LAYERS["core/hooks"] = ["core/base", "core/metrics", PLAN]
LAYERS["core/train"] = LAYERS["core/plan"] + ["core/plan", "core/hooks"]
LAYERS["core/infer"] = LAYERS["core/bench"] = LAYERS["core/train"]
LAYERS["lua"] = LAYERS["core/train"] + ["core/infer"]
LAYERS["core/cli"] = LAYERS["lua"] + ["lua", "core/train", "core/bench"]
LAYERS["kernels/bench"] = ["core/base", "kernels"]

# A header of a library, and the files that may include it (prefixes).
LIBRARIES = [
    (r"jansson\.h", ["core/base/json."]),
    (r"yaml\.h", ["core/recipe/yaml.c"]),
    (r"(cuda|cublas|cooperative_groups|nv|mma).*", ["kernels/cuda/"]),
    (r"(lua|lualib|lauxlib|luajit)\.h(pp)?", ["lua/"]),
    (r"(mpi|nccl)\.h", ["core/dist/"]),
    (r"zlib\.h", ["core/checkpoint/", "core/base/"]),
]

# Calls, and the files that may make them (prefixes): memory comes from core/base/alloc.h, only the program itself
# ends the process or speaks to people.
CALLS = [
    (r"(?<![>.])\b(malloc|calloc|realloc|free|strdup|strndup|asprintf|getline|posix_memalign|aligned_alloc)\s*\(",
     ["core/base/alloc.c", "kernels/bench/"], "use core/base/alloc.h"),
    (r"\b(exit|abort|_exit|quick_exit)\s*\(", ["core/cli/", "kernels/bench/", "lua/watchdog.c", "core/train/signals.c"], "return an rw_status"),
    # Files are written beneath a folder only; these are the folder itself, a file without a name, and old saves.
    (r"\b(O_CREAT|creat|rename|renameat|unlinkat|mkdirat|link|symlink|mkostemp|mkstemp|tmpfile)\b(?=\s*[(|,])",
     ["core/base/folder.c", "core/base/fs.c", "core/data/store.c"], "write through core/base/folder.h"),
    (r"\b(unlink|mkdir|remove)\s*\(", ["core/base/fs.c", "core/data/store.c", "core/checkpoint/retention.c"],
     "write through core/base/folder.h"),
    (r"\b(setlocale|strtok|gets|sprintf|vsprintf|rand|srand)\s*\(", [], "not safe here"),
    (r"\bfprintf\s*\(\s*stderr\b",
     ["core/base/log.c", "core/metrics/console.c", "core/cli/", "kernels/bench/"], "use rw_warn() or return an error"),
]

INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*(["<])([^">]+)[">]', re.M)
NOT_CODE = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.S)


def sources():
    for top in ("core", "kernels", "lua"):
        for folder, _, names in os.walk(os.path.join(ROOT, top)):
            for name in sorted(names):
                if name.endswith((".c", ".h", ".cu", ".cuh", ".def")):
                    yield os.path.relpath(os.path.join(folder, name), ROOT)


def layer_of(path):
    folder = os.path.dirname(path)
    while folder and folder not in LAYERS:
        folder = os.path.dirname(folder)
    return folder


def line_of(text, position):
    return text.count("\n", 0, position) + 1


def check_include(path, quote, target):
    if quote == "<":
        for pattern, allowed in LIBRARIES:
            if re.fullmatch(pattern, target) and not path.startswith(tuple(allowed)):
                return f"<{target}> may be included only in {', '.join(allowed)}"
        return None
    if not os.path.exists(os.path.join(ROOT, target)):
        return f'"{target}" is not a path from the root of the tree'
    mine, other = layer_of(path), layer_of(target)
    if not other:
        return f'"{target}" is in no layer'
    allowed = [mine] + LAYERS[mine]
    if other in allowed or target in allowed:
        return None
    return f'{mine} may not include "{target}"'


def check_file(path):
    with open(os.path.join(ROOT, path), encoding="utf-8") as f:
        text = f.read()
    found = []
    for m in INCLUDE.finditer(text):
        problem = check_include(path, m.group(1), m.group(2))
        if problem:
            found.append(f"{path}:{line_of(text, m.start())}: {problem}")
    code = NOT_CODE.sub(lambda m: re.sub(r"[^\n]", " ", m.group()), text)
    for pattern, allowed, advice in CALLS:
        for m in re.finditer(pattern, code):
            if not path.startswith(tuple(allowed)):
                found.append(f"{path}:{line_of(code, m.start())}: {m.group().rstrip('( ')}(): {advice}")
    if not text.lstrip().startswith(("/*", "//")):
        found.append(f"{path}:1: the file does not begin with a comment that says what it is")
    return found


# -- circles -----------------------------------------------------------------------------------------------------------


def module_of(path):
    """A module is a path without its extension: x.c, x.h, x.def, and the x_internal.h that its parts share."""
    return os.path.splitext(path)[0].removesuffix("_internal")


def includes_of_modules(files):
    edges = {}
    for path in files:
        with open(os.path.join(ROOT, path), encoding="utf-8") as f:
            targets = {module_of(m.group(2)) for m in INCLUDE.finditer(f.read()) if m.group(1) == '"'}
        edges.setdefault(module_of(path), set()).update(targets - {module_of(path)})
    return edges


def check_circles(files):
    """A depth-first walk; a module that is met again while its own includes are walked closes a circle."""
    edges, found, chain, done = includes_of_modules(files), [], [], set()

    def walk(module):
        if module in chain:
            found.append("a circle of includes: " + " -> ".join(chain[chain.index(module):] + [module]))
        if module in chain or module in done:
            return
        chain.append(module)
        for target in sorted(edges.get(module, ())):
            walk(target)
        done.add(chain.pop())

    for module in sorted(edges):
        walk(module)
    return found


# -- what the build links ----------------------------------------------------------------------------------------------

FOLDER = re.compile(r"^rw_folder\((\w+) (\S+)([^)]*)\)", re.M)
LINKED = re.compile(r"^\s*target_link_libraries\((rw_kernels|rw_lua) PUBLIC([^)]*)\)", re.M)
BUILD_FILES = ["CMakeLists.txt", "kernels/kernels.cmake", "lua/lua.cmake"]


def read_links():
    """{library: the libraries that it names}, {library: its folder}"""
    links, folders = {}, {"rw_kernels": "kernels", "rw_lua": "lua"}
    for path in BUILD_FILES:
        with open(os.path.join(ROOT, path), encoding="utf-8") as f:
            text = f.read()
        for name, folder, named in FOLDER.findall(text):
            links[name], folders[name] = re.findall(r"\brw_\w+", named), folder
        for name, named in LINKED.findall(text):
            links[name] = re.findall(r"\brw_\w+", named.replace("rw_cuda_libraries", ""))
    return links, folders


def reached(name, edges):
    direct = edges.get(name, [])
    return set(direct).union(*(reached(other, edges) for other in direct))


def check_links(files):
    """A library links, itself or through others, to each folder that it includes, and to none that is not below it.
    Files that hold data only need no library."""
    links, folders = read_links()
    below = {layer: [name if name in LAYERS else layer_of(name) for name in names if name not in DATA_ONLY]
             for layer, names in LAYERS.items()}
    included = {}
    for path in files:
        with open(os.path.join(ROOT, path), encoding="utf-8") as f:
            targets = {m.group(2) for m in INCLUDE.finditer(f.read()) if m.group(1) == '"'} - DATA_ONLY
        included.setdefault(layer_of(path), set()).update(layer_of(target) for target in targets)
    found = []
    for name, folder in folders.items():
        linked = {folders[other] for other in reached(name, links)}
        for other in sorted(linked - reached(folder, below)):
            found.append(f"{name} links to {other}, which is not below {folder}")
        for other in sorted(included.get(folder, set()) - linked - {folder}):
            found.append(f"{name} does not link to {other}, which {folder} includes")
    return found


def flags():
    try:
        extra = subprocess.run(["pkg-config", "--cflags", "luajit", "jansson", "yaml-0.1"], capture_output=True,
                               text=True, check=True).stdout.split()
    except (OSError, subprocess.CalledProcessError):
        extra = []
    return ["-I", ROOT, "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", "-fopenmp", "-fsyntax-only", "-fmax-errors=3", *extra]


def compile_header(path, base):
    found = []
    compilers = [["gcc", "-x", "c", "-std=c11"], ["g++", "-x", "c++", "-std=c++17", "-Wno-missing-field-initializers"]]
    # What only C files of one folder share may use C alone: vector types, restrict, _Alignas.
    if uses_atomics(path) or path.startswith("kernels/cpu/") or path.endswith("_internal.h"):
        compilers.pop()
    for compiler in compilers:
        # Included from standard input: compiled as a main file, a header warns about its own static functions.
        result = subprocess.run([*compiler, *base, "-"], input=f'#include "{path}"\n#include "{path}"\n',
                                capture_output=True, text=True, cwd=ROOT)
        if result.returncode != 0:
            found.append(f"{path}: does not compile alone with {' '.join(compiler)}:\n{result.stderr.rstrip()}")
    return found


def uses_atomics(path):
    """C11 atomics are not C++: such a header, and what includes it, is for C alone."""
    with open(os.path.join(ROOT, path), encoding="utf-8") as f:
        text = f.read()
    return "<stdatomic.h>" in text or any(uses_atomics(m.group(2)) for m in INCLUDE.finditer(text)
                                          if m.group(1) == '"' and os.path.exists(os.path.join(ROOT, m.group(2))))


def needs_real(path):
    """kernels/cpu headers need the number type that the build gives (RW_REAL_F32 or RW_REAL_F64)."""
    return ["-DRW_REAL_F32"] if path.startswith("kernels/cpu/") else []


def main():
    files = list(sources())
    found = [problem for path in files for problem in check_file(path)]
    found += check_circles(files) + check_links(files)
    headers = [] if "--quick" in sys.argv[1:] else [p for p in files if p.endswith(".h")]
    base = flags()
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for problems in pool.map(lambda p: compile_header(p, base + needs_real(p)), headers):
            found += problems
    print("\n".join(found) if found else f"{len(files)} files, {len(headers)} headers compiled alone: in order")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
