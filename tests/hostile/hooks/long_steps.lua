-- expect: stopped after running for
-- 20 instructions that each work through 60 MB.
local s = ("x"):rep(6e7)
while true do s:reverse() s:reverse() s:reverse() s:reverse() s:reverse() s:reverse() end
