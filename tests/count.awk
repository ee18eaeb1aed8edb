# Counts the cases in the JUnit file that ctest writes: those of cmocka programs one by one, any other program
# as one. Of golden tests the lines with "worst" (the largest difference) are repeated, of all "skipped: ".
# Fails when a case failed or none passed.

function finish() {
    if (name == "") return
    if (outcome == "fail" && !case_failed) case_failed = 1 # also a crash after cases that passed
    else if (outcome == "skip") case_skipped++
    else if (!n_cases && outcome == "run") case_passed = 1
    passed += case_passed; failed += case_failed; skipped += case_skipped
    name = ""
}

/^\t<testcase name="/ {
    finish()
    split($0, part, "\"")
    name = part[2]
    outcome = part[8]
    n_cases = case_passed = case_failed = case_skipped = 0
}
/^\t\t<skipped message="SKIP_RETURN_CODE/ { outcome = "skip" }
/^\t\t<skipped message="Unable/ { outcome = "fail" }
/^\[==========\] [0-9]+ test\(s\) run\./ { n_cases += $2 }
/^\[  PASSED  \] [0-9]+ test\(s\)\.$/ { case_passed += $4 }
/^\[  FAILED  \] [0-9]+ test\(s\), listed below:/ { case_failed += $4 }
/^\[  SKIPPED \] [0-9]+ test\(s\), listed below:/ { case_skipped += $4 }
{
    line = $0
    sub(/^\t\t<system-out>/, "", line)
    if (line ~ /^skipped: / || (name ~ /^golden/ && line ~ /worst/)) {
        sub(/^ +/, "", line)
        if (!seen[line]++) notes[++n_notes] = name ": " line
    }
}

END {
    finish()
    for (i = 1; i <= n_notes; i++) print notes[i]
    line = passed + 0 " passed, " failed + 0 " failed"
    if (skipped) line = line ", " skipped " skipped"
    print line
    exit failed || !passed
}
