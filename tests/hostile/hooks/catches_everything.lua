-- expect: stopped after running for
local function deep() return coroutine.wrap(function() pcall(deep) end)() end
while true do pcall(deep) end
