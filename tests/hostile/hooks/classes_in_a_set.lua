-- expect: stopped after running for
("x"):find("[" .. ("%a"):rep(2.4e7) .. "]")
