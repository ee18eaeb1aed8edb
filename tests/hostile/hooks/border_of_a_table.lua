-- expect: stopped after running for
-- The border is found by a linear search; 20 of them between two looks at the clock would take long.
local t = {}
for i = 1, 1e6 do t[i + 0.5] = i end
for i = 0, 30 do t[3 * 2 ^ i] = 1 end
t[1], t[2] = 1, 1
while true do local n = #t + #t + #t + #t + #t + #t + #t + #t + #t + #t + #t + #t + #t + #t end
