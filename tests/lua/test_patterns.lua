-- The sandbox's string patterns: what the reference manual of Lua 5.1 says.
local function same(got, expected)
  if got ~= expected then error(("expected %s, got %s"):format(tostring(expected), tostring(got)), 2) end
end

local function all(...)
  local t = { ... }
  for i = 1, select("#", ...) do t[i] = tostring(t[i]) end
  return table.concat(t, ",")
end

-- find
same(all(("hello world"):find("wor")), "7,9")
same(all(("hello"):find("l+")), "3,4")
same(all(("hello"):find("(l)(l)")), "3,4,l,l")
same(all(("a.b"):find(".", 1, true)), "2,2")
same(all(("a.b"):find("%.")), "2,2")
same(all(("hello"):find("l", -2)), "4,4")
same(all(("hello"):find("h", -2)), "nil")
same(all(("hello"):find("", 10)), "6,5")
same(all(("hello"):find("^l")), "nil")
same(all(("hello"):find("o$")), "5,5")
same(all((""):find("")), "1,0")
same(all(("a\0b"):find("\0", 1, true)), "2,2")
same(all(("a\0b"):find("%z")), "2,2")

-- match
same(all(("key = value"):match("^(%w+)%s*=%s*(%w+)$")), "key,value")
same(all(("  trim me "):match("^%s*(.-)%s*$")), "trim me")
same(all(("x = [[y]]"):match("%b[]")), "[[y]]")
same(all(("THE (quick) fox"):match("%f[%a]%a+%f[%A]")), "THE")
same(all(("hello"):match("()ll()")), "3,5")
same(all(("abcabc"):match("(abc)%1")), "abc")
same(all(("2024-03-28"):match("(%d+)-(%d+)-(%d+)")), "2024,03,28")
same(all(("a]b"):match("[]]")), "]")
same(all(("a^b"):match("[b^]+")), "^b")
same(all(("a-b"):match("[a%-]+")), "a-")
same(all(("xyz"):match("[^x-y]")), "z")
same(all(("aaa"):match("a-")), "")
same(all(("aaab"):match("a-b")), "aaab")
same(all(("color colour"):match("colou?r$")), "colour")
same(all(("$5"):match("$%d")), "$5")
same(all(("hello"):match(".", -1)), "o")
same(all(("abc"):match("((a)(b))")), "ab,a,b")

-- gmatch
local words = {}
for w in ("one two  three"):gmatch("%a+") do words[#words + 1] = w end
same(table.concat(words, "|"), "one|two|three")
local pairs_found = {}
for k, v in ("a=1, b=2"):gmatch("(%w+)=(%w+)") do pairs_found[#pairs_found + 1] = k .. v end
same(table.concat(pairs_found, "|"), "a1|b2")
local n = 0
for _ in ("abc"):gmatch("") do n = n + 1 end
same(n, 4)

-- gsub
same(all(("hello world"):gsub("o", "0")), "hell0 w0rld,2")
same(all(("hello"):gsub("", "-")), "-h-e-l-l-o-,6")
same(all(("hello world"):gsub("(%w+) (%w+)", "%2 %1")), "world hello,1")
same(all(("abc"):gsub("%w", "%0%0")), "aabbcc,3")
same(all(("abc"):gsub("%w", "%%")), "%%%,3")
same(all(("abc"):gsub("b", { b = "B" })), "aBc,1")
same(all(("abc"):gsub("%w", { b = "B" })), "aBc,3")
same(all(("abc"):gsub("%w", function(c) return c ~= "b" and c:upper() or nil end)), "AbC,3")
same(all(("aaa"):gsub("a", "b", 2)), "bba,2")
same(all(("aaa"):gsub("^a", "b")), "baa,1")
same(all(("abc"):gsub("(b)", 7)), "a7c,1")
same(all(("x y"):gsub("()", "%1")), "1x2 3y4,4")

-- mistakes in patterns
for pattern, message in pairs {
  ["%"] = "ends with '%'",
  ["[a"] = "missing ']'",
  ["(a"] = "unfinished capture",
  ["a)"] = "invalid pattern capture",
  ["%1"] = "invalid capture index",
  ["%f"] = "missing '[' after '%f'",
  ["%bx"] = "missing characters after '%b'",
} do
  local ok, text = pcall(string.match, "aaa", pattern)
  assert(not ok, pattern)
  assert(text:find(message, 1, true), pattern .. ": " .. text)
end
