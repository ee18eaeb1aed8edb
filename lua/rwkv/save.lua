-- rwkv.save: when a run is saved, besides its end (which is always saved).
--
-- trainer.step counts the steps done before this one, so after this step there are step + 1.

local M = {}

-- every(n): after each n steps; 0: never.
function M.every(n)
  return function(trainer) return n > 0 and (trainer.step + 1) % n == 0 end
end

-- every_epoch(n): at the end of epochs 0, n, 2n, ... and of the last one, as the official trainer does; 0: never.
function M.every_epoch(n)
  return function(trainer)
    if n <= 0 or (trainer.step + 1) % trainer.epoch_steps ~= 0 then return false end
    local epoch = (trainer.step + 1) / trainer.epoch_steps - 1
    return epoch % n == 0 or epoch == trainer.epoch_count - 1
  end
end

-- any(a, b, ...): when one of them says so.
function M.any(...)
  local rules = { ... }
  return function(trainer)
    for _, rule in ipairs(rules) do
      if rule(trainer) then return true end
    end
    return false
  end
end

-- From the keys save.epoch_save and save.every.
M.hooks = {
  should_save = function(trainer)
    return M.any(M.every_epoch(trainer.epoch_save), M.every(trainer.save_every))(trainer)
  end,
}

return M
