-- expect: call each other too deeply|stopped after running for
local t
t = setmetatable({}, { __tostring = function() print(t) return "" end })
print(t)
