-- rwkv.schedule: how a number moves over a run (learning rate, weight decay).
--
-- A schedule is a function (trainer, skip) -> number, so that it can be a hook by itself:
--
--     local schedule = require "rwkv.schedule"
--     return { lr = schedule.warmup(200, schedule.cosine{ from = 3e-5, to = 1e-6 }) }
--
-- `skip` is how many steps at the front belong to a warmup; warmup() and delay() pass it on, so that what
-- they wrap begins where they end. All arithmetic is that of the official
-- tutorial's trainer, to the last bit; "official" below is that trainer.
--
-- Options of linear, exponential, cosine and progress, as one table:
--     from, to     the two ends (not for progress)
--     steps        where `to` is reached; default: epoch_count * epoch_steps
--     begin        steps that stay at `from` (the official my_pile_edecay, in steps); default 0
--     tokens       where `to` is reached, counted in tokens (the official my_exit_tokens); replaces steps
--     ahead        1: the first step has already moved by one (linear, exponential: the official rule);
--                  0: it has not (cosine, and whatever counts tokens)
-- Steps are counted from the start of the official run: step + epoch_begin * epoch_steps.

local M = {}
local message = rwkv.message

local known = { from = true, to = true, steps = true, begin = true, tokens = true, ahead = true }

-- Errors point at the line of the user: `level` counts the calls between here and there.
local function check_options(name, options, level)
  if type(options) ~= "table" then
    error(message("schedule.%s: expected a table of options, got %s"):format(name, type(options)), level + 1)
  end
  for key, value in pairs(options) do
    if not known[key] then
      error(message("schedule.%s: unknown option '%s' (known: from, to, steps, begin, tokens, ahead)"):format(name, tostring(key)),
            level + 1)
    end
    if type(value) ~= "number" or value ~= value then
      error(message("schedule.%s: option '%s' must be a number, got %s"):format(name, key, tostring(value)), level + 1)
    end
  end
end

local function check_ends(name, options, level)
  for _, key in ipairs { "from", "to" } do
    if options[key] == nil then
      error(message("schedule.%s: option '%s' is missing"):format(name, key), level + 1)
    end
  end
end

local function real_step(trainer)
  return trainer.step + trainer.epoch_begin * trainer.epoch_steps
end

-- How far the run is, from 0 to 1. An end at or before the beginning counts as passed.
local function fraction(done, total)
  if total <= 0 then return 1 end
  return math.min(1, math.max(0, done / total))
end

local function make_progress(options, ahead)
  ahead = options.ahead or ahead
  if options.tokens then
    return function(trainer, skip)
      local per_step = trainer.ctx_len * trainer.real_bsz
      local front = ((skip or 0) + (options.begin or 0)) * per_step
      return fraction((real_step(trainer) + (options.ahead or 0)) * per_step - front, options.tokens - front)
    end
  end
  return function(trainer, skip)
    local front = (skip or 0) + (options.begin or 0)
    local steps = options.steps or trainer.epoch_count * trainer.epoch_steps
    return fraction(real_step(trainer) - front + ahead, steps - front)
  end
end

-- progress{...}: the fraction itself. Reaching 1 by tokens is where the official trainer ends a run.
function M.progress(options)
  check_options("progress", options or {}, 2)
  return make_progress(options or {}, 0)
end

function M.constant(value)
  if type(value) ~= "number" then
    error(message("schedule.constant: expected a number, got %s"):format(type(value)), 2)
  end
  return function() return value end
end

function M.linear(options)
  check_options("linear", options, 2)
  check_ends("linear", options, 2)
  local progress = make_progress(options, 1)
  return function(trainer, skip)
    return options.from + (options.to - options.from) * progress(trainer, skip)
  end
end

-- from * (to / from) ^ progress. Neither end may be 0: no power leads there.
function M.exponential(options)
  check_options("exponential", options, 2)
  check_ends("exponential", options, 2)
  if options.from * options.to <= 0 then
    error(message("schedule.exponential: 'from' and 'to' must both be above 0; use schedule.linear"), 2)
  end
  local progress = make_progress(options, 1)
  local log_ratio = math.log(options.to / options.from)
  return function(trainer, skip)
    return options.from * math.exp(log_ratio * progress(trainer, skip))
  end
end

-- Half a wave from `from` down (or up) to `to`.
function M.cosine(options)
  check_options("cosine", options, 2)
  check_ends("cosine", options, 2)
  local progress = make_progress(options, 0)
  local middle, swing = (options.from + options.to) / 2, (options.from - options.to) / 2
  return function(trainer, skip)
    return middle + swing * math.cos(math.pi * progress(trainer, skip))
  end
end

-- delay(steps, inner): `inner` begins after this many steps and stays at its `from` until then.
function M.delay(steps, inner)
  if type(steps) ~= "number" then
    error(message("schedule.delay: expected a number of steps, got %s"):format(type(steps)), 2)
  end
  if type(inner) ~= "function" then
    error(message("schedule.delay: expected a schedule after the steps, got %s"):format(type(inner)), 2)
  end
  return function(trainer, skip) return inner(trainer, (skip or 0) + steps) end
end

-- warmup(steps, inner [, { start = 0.2 }]): `inner` times a factor that climbs in a straight line from `start`
-- to 1. 0.2 is the official value, 0.01 that of newer trainers. The steps of this run count, not those
-- of epoch_begin. steps = -1 (officially "no warmup") moves `inner` one step forward, as it does there.
function M.warmup(steps, inner, options)
  if type(steps) ~= "number" then
    error(message("schedule.warmup: expected a number of steps, got %s"):format(type(steps)), 2)
  end
  if type(inner) ~= "function" then
    error(message("schedule.warmup: expected a schedule after the steps, got %s"):format(type(inner)), 2)
  end
  local start = 0.2
  for key, value in pairs(options or {}) do
    if key ~= "start" then
      error(message("schedule.warmup: unknown option '%s' (known: start)"):format(tostring(key)), 2)
    end
    start = value
  end
  return function(trainer, skip)
    local value = inner(trainer, (skip or 0) + steps)
    if trainer.step < steps then value = value * (start + (1 - start) * trainer.step / steps) end
    return value
  end
end

-- mean(a, b): halfway between two schedules (the official rule for a negative my_exit_tokens).
function M.mean(a, b)
  if type(a) ~= "function" or type(b) ~= "function" then
    error(message("schedule.mean: expected two schedules"), 2)
  end
  return function(trainer, skip) return (a(trainer, skip) + b(trainer, skip)) / 2 end
end

-- auto(from, to [, options]): the official rule. Equal ends stay, an end at 0 is reached in a straight line,
-- all else by powers.
function M.auto(from, to, options)
  local all = { from = from, to = to }
  for key, value in pairs(options or {}) do all[key] = value end
  if from == to then return M.constant(from) end
  if from == 0 or to == 0 then return M.linear(all) end
  return M.exponential(all)
end

-- by_name(name, from, to): what the recipe key train.schedule says.
function M.by_name(name, from, to)
  if name == "auto" then return M.auto(from, to) end
  if name == "constant" then return M.constant(from) end
  if name == "linear" then return M.linear { from = from, to = to } end
  if name == "exponential" then return M.exponential { from = from, to = to } end
  if name == "cosine" then return M.cosine { from = from, to = to } end
  error(message("train.schedule: '%s' is unknown (known: auto, constant, linear, exponential, cosine)"):format(tostring(name)), 0)
end

-- The hooks of a run without scripts, from the keys lr_init, lr_final, warmup_steps, schedule, weight_decay and
-- weight_decay_final. Weight decay has no warmup factor, but begins to move where the warmup ends. Under a
-- cosine it moves by the cosine's fraction, else by the other one, as officially.
M.hooks = {
  lr = function(trainer)
    local inner = M.by_name(trainer.schedule, trainer.lr_init, trainer.lr_final)
    return M.warmup(trainer.warmup_steps, inner)(trainer)
  end,

  weight_decay = function(trainer)
    local from, to = trainer.weight_decay, trainer.weight_decay_final
    if to <= 0 then return from end
    local inner = M.auto(from, to, { ahead = trainer.schedule == "cosine" and 0 or 1 })
    return M.delay(trainer.warmup_steps, inner)(trainer)
  end,
}

return M
