# Shared by the tests of this folder: $root, $program, the scratch folder $work, and
#
#   fail WHY...     ends the test, with what the program said last
#   says TEXT       the program's last messages ($work/log) hold TEXT
#   no_controls FILE   it holds no control byte but newline and tab, no C1 character and no invalid UTF-8
. "$(dirname "$0")/../cli/start.sh"
export RWKV_THREADS=1

says() { grep -qF -- "$1" "$work/log" || fail "not said: $1"; }

no_controls() {
    iconv -f utf-8 -t utf-8 "$1" >/dev/null 2>&1 || fail "$1 is not UTF-8"
    if tr -d '\n\t' <"$1" | LC_ALL=C grep -qP '[\x00-\x1f\x7f]|\xc2[\x80-\x9f]'; then
        fail "$1 holds control characters: $(LC_ALL=C grep -aP '[\x00-\x08\x0b-\x1f\x7f]|\xc2[\x80-\x9f]' "$1" | head -n 3 | cat -v)"
    fi
}
