-- expect: stopped after running for
-- requires or_terms_text.lua, 120,000 terms, which the test writes: the parser takes time with the square of it.
require "or_terms_text"
