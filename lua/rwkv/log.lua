-- rwkv.log: the line for people.
--
--     step 120/2000  epoch 1/2  loss 3.2108  lr 1.00e-05  12.3 kt/s  left 2h 03m

local M = {}
local message = rwkv.message

-- 8.1s, 4m 12s, 2h 03m
function M.duration(seconds)
  if seconds ~= seconds or seconds == math.huge then return "?" end
  if seconds < 60 then return ("%.1fs"):format(seconds) end
  if seconds < 3600 then return ("%dm %02ds"):format(math.floor(seconds / 60), math.floor(seconds % 60)) end
  return ("%dh %02dm"):format(math.floor(seconds / 3600), math.floor(seconds / 60) % 60)
end

-- 512 t/s, 12.3 kt/s, 1.2 Mt/s
function M.rate(tokens_per_second)
  local x = tokens_per_second
  if x ~= x then return "? t/s" end
  if x < 1e3 then return ("%.0f t/s"):format(x) end
  if x < 1e6 then return ("%.1f kt/s"):format(x / 1e3) end
  return ("%.1f Mt/s"):format(x / 1e6)
end

function M.line(trainer, metrics)
  local parts = {
    message("step %d/%d"):format(trainer.step + 1, trainer.n_steps),
  }
  local function add(text) parts[#parts + 1] = text end
  if trainer.epoch_count > 1 then add(message("epoch %d/%d"):format(trainer.epoch + 1, trainer.epoch_count)) end
  add(message("loss %.4f"):format(metrics.loss))
  if metrics.val_loss == metrics.val_loss then add(("val_loss %.4f"):format(metrics.val_loss)) end
  add(("lr %.2e"):format(metrics.lr))
  add(M.rate(metrics.tokens_per_second))
  if metrics.seconds_left == metrics.seconds_left then add(message("left %s"):format(M.duration(metrics.seconds_left))) end
  return table.concat(parts, "  ")
end

M.hooks = { log = M.line }

return M
