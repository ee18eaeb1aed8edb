-- expect: stack overflow|stopped after running for
local t = {}
t[1], t[2] = t, table.sort
table.sort(t, table.sort)
