-- expect: stopped after running for
-- Each capture is empty, so no limit of memory ends it.
local s = ("x"):rep(1000)
s:gsub("(y*)x", ("%1"):rep(2e7))
