-- expect: call each other too deeply|stopped after running for
-- The subject is the pattern and the function, as gsub would have them from itself.
local t = setmetatable({}, { __index = function(self, key) return (key:gsub("x", self)) end })
;("x"):gsub("x", t)
