-- The learning rate of the quickstart: a cosine over the steps, or over the time, whichever is further on.
--
-- Where the steps take longer than the recipe's max_seconds, a cosine over the steps alone would stop halfway
-- down, with a model that is still restless. Here it is down when the time is up. On a computer that makes all
-- the steps in time the clock never leads, and a run gives the same bits as any other.

local schedule = require "rwkv.schedule"

local seconds = 108  -- a little before max_seconds
local patience = 20  -- first seconds that say nothing yet about the speed

local by_steps = schedule.progress { ahead = 0 }

return {
  lr = function(trainer)
    local done = by_steps(trainer)
    if trainer.elapsed > patience then done = math.max(done, math.min(1, trainer.elapsed / seconds)) end
    local high, low = trainer.lr_init, trainer.lr_final
    local lr = low + (high - low) * (1 + math.cos(math.pi * done)) / 2
    local warmup = trainer.warmup_steps
    if trainer.step < warmup then lr = lr * (trainer.step + 1) / warmup end
    return lr
  end,
}
