-- expect: stopped after running for|lua.memory_mb
table.insert({}, -2147483648, 1)
