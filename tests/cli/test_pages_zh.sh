#!/bin/sh
# The Chinese pages have what the English ones have: recipes/README.zh.md the output of RWKV_LANG=zh rwkv-run --keys and every
# model, lua/README.zh.md every hook, both every part. And in all pages a table has its line of dashes under the first row.
set -eu

. "$(dirname "$0")/start.sh"

sed '1,/^<!-- keys: /d; /^<!-- \/keys -->/,$d' "$root/recipes/README.zh.md" >"$work/page"
RWKV_LANG=zh "$program" --keys >"$work/keys"
if [ -n "${RWKV_WRITE_KEYS:-}" ]; then # put it there
    { sed '/^<!-- keys: /q' "$root/recipes/README.zh.md"; cat "$work/keys"; sed -n '/^<!-- \/keys -->/,$p' "$root/recipes/README.zh.md"; } >"$work/new"
    cat "$work/new" >"$root/recipes/README.zh.md"
    exit
fi
diff "$work/keys" "$work/page" >&2 || fail "recipes/README.zh.md is not what RWKV_LANG=zh rwkv-run --keys prints; run this test with RWKV_WRITE_KEYS=1"
grep -o '`rwkv-[0-9]-world/resolve/[^`]*`' "$root/recipes/README.md" | while read -r file; do
    grep -qF "$file" "$root/recipes/README.zh.md" || fail "recipes/README.zh.md lacks $file"
done
sed -n 's/^| `\([a-z_]*\)` | \(number\|boolean\|text\|event\|memory\) .*/\1/p' "$root/lua/README.md" | while read -r hook; do
    grep -q "^| \`$hook\` |" "$root/lua/README.zh.md" || fail "lua/README.zh.md has no row for the hook $hook"
done
for page in lua/ recipes/; do
    [ "$(grep -c '^## ' "$root/${page}README.md")" -le "$(grep -c '^## ' "$root/${page}README.zh.md")" ] ||
        fail "${page}README.zh.md has fewer parts than ${page}README.md"
done

git -C "$root" ls-files '*.md' 2>/dev/null | while read -r page; do
    awk -v page="$page" '
        /^```/ { code = !code }
        second && !/^\|-/ { printf "%s:%d: a row of no table\n", page, NR - 1; broken = 1 }
        { second = !code && /^\|/ && last !~ /^\|/; last = $0 }
        END { exit broken }' "$root/$page" || fail "a table of $page is broken"
done
