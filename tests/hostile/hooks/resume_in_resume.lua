-- expect: call each other too deeply|stopped after running for
local function deep() return assert(coroutine.resume(coroutine.create(deep))) end
local ok, why = deep()
error(why, 0)
