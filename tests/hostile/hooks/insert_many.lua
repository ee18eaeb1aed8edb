-- expect: stopped after running for
local t = {}
for i = 1, 2e6 do t[i] = i end
while true do table.insert(t, -2000000, 1) end
