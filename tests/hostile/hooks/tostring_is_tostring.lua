-- expect: call each other too deeply|stopped after running for
-- The library calls this on and on without an instruction or a frame.
tostring(setmetatable({}, { __tostring = tostring }))
