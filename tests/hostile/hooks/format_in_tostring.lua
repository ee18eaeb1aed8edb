-- expect: stack overflow|stopped after running for
local t
t = setmetatable({}, { __tostring = function() return ("%s"):format(t) end })
print(t)
