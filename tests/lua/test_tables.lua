-- The sandbox's pairs and table.sort.
local function same(got, expected)
  if got ~= expected then error(("expected %s, got %s"):format(tostring(expected), tostring(got)), 2) end
end

local function visited(t)
  local out = {}
  for k, v in pairs(t) do out[#out + 1] = tostring(k) .. "=" .. tostring(v) end
  return table.concat(out, " ")
end

-- numbers, then texts, then the rest
same(visited {}, "")
same(visited { 1, 2, 3 }, "1=1 2=2 3=3")
same(visited { lr = 1, wiki = 2, a = 3, Z = 4 }, "Z=4 a=3 lr=1 wiki=2")
same(visited { 7, [-1] = 0, [0.5] = 1, b = 2, a = 3, [true] = 4 }, "-1=0 0.5=1 1=7 a=3 b=2 true=4")
same(visited { [10] = 1, [9] = 2, [100] = 3 }, "9=2 10=1 100=3")

-- keys may change while the loop runs
local t = { a = 1, b = 2, c = 3 }
for k in pairs(t) do
  t[k] = nil
  t[k .. k] = true
end
same(visited(t), "aa=true bb=true cc=true")
t = { a = 1, b = 2, c = 3 }
for k in pairs(t) do
  assert(k ~= "c")
  t.c = nil
end
local other = {}
t = { [other] = 1, [print] = 2, x = 3 }
local n = 0
for _ in pairs(t) do n = n + 1 end
same(n, 3)
assert(not pcall(pairs, nil))
same(next { x = 1 }, "x")

-- sort
local function sorted(list, less)
  table.sort(list, less)
  return table.concat(list, " ")
end
same(sorted {}, "")
same(sorted { 3, 1, 2 }, "1 2 3")
same(sorted { "b", "a", "C" }, "C a b")
same(sorted({ 1, 2, 3 }, function(a, b) return a > b end), "3 2 1")
local many = {}
for i = 1, 1000 do many[i] = (i * 7919) % 1009 end
table.sort(many)
for i = 2, #many do assert(many[i - 1] <= many[i]) end
assert(not pcall(table.sort, { 1, "a" }))
