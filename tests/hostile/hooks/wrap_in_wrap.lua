-- expect: call each other too deeply|stopped after running for
local function deep() return coroutine.wrap(deep)() end
deep()
