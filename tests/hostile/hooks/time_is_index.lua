-- expect: missing in date table
os.time(setmetatable({}, { __index = os.time }))
