-- rwkv.early_stop: ends a run whose validation loss no longer falls. An example of a hook with options and memory.
--
-- In a recipe:       hooks: [ rwkv.early_stop ]
-- or in a hook file: return require "rwkv.early_stop" { patience = 5 }
--
--     patience   validations in a row without a better loss before the run ends; default 3
--     min_delta  how much lower a loss must be to count as better; default 0

local M = {}
local message = rwkv.message

local defaults = { patience = 3, min_delta = 0 }

function M.new(options)
  local set = {}
  for key, value in pairs(defaults) do set[key] = value end
  for key, value in pairs(options or {}) do
    if defaults[key] == nil then
      error(message("early_stop: unknown option '%s' (known: min_delta, patience)"):format(tostring(key)), 2)
    end
    set[key] = value
  end

  local best, worse = math.huge, 0
  return {
    on_validation_end = function(trainer, metrics)
      local loss = metrics.val_loss
      if loss < best - set.min_delta then
        best, worse = loss, 0
        return
      end
      worse = worse + 1
      if worse >= set.patience then
        trainer:stop(message("val_loss did not fall below %.4f in %d validations"):format(best, worse))
      end
    end,
    state_dict = function() return { best = best, worse = worse } end,
    load_state_dict = function(state) best, worse = state.best, state.worse end,
  }
end

-- The table itself is the hook with the defaults; calling it makes one with options.
return setmetatable(M.new(), { __call = function(_, options) return M.new(options) end })
