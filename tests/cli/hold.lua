-- Holds a run before the step after HOLD_STEP for as long as the file HOLD_FILE is there, and no longer than the scratch
-- folder of the test. So a test meets a run in its middle on a machine of any load. Needs --trust.
local step, file = tonumber(os.getenv("HOLD_STEP")), os.getenv("HOLD_FILE")
return { lr = function(trainer)
  while trainer.step >= step do
    local held = io.open(file)
    if not held then return end
    held:close()
  end
end }
