-- expect: call each other too deeply|stopped after running for
-- gsub as its own function: no instruction of Lua between the calls.
local deep
deep = function(s) return (s:gsub("x", deep)) end
("x"):gsub("x", deep)
