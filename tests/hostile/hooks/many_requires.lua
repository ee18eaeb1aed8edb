-- expect: call each other too deeply|require 'chain_3001'|stopped after running for
-- chain_1.lua requires chain_2.lua, and so on to chain_3000.lua; the test writes them.
require "chain_1"
