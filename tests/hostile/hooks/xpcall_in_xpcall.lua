-- expect: stack overflow|stopped after running for
local why
local function deep() return select(2, xpcall(deep, function(e) why = why or e return e end)) end
deep()
error(why, 0)
