-- rwkv.schedule by hand-computed values. Run by `rwkv-run lua`; an error fails the test.
local schedule = require "rwkv.schedule"

local function near(got, expected, what)
  if math.abs(got - expected) > 1e-15 * math.max(1, math.abs(expected)) then
    error(("%s: expected %.17g, got %.17g"):format(what, expected, got), 2)
  end
end

local function at(step)
  return { step = step, epoch_begin = 0, epoch_steps = 50, epoch_count = 2, ctx_len = 10, real_bsz = 2,
           lr_init = 1, lr_final = 0.25, warmup_steps = 0, weight_decay = 0.1, weight_decay_final = -1, schedule = "auto" }
end

local function fails(message, f, ...)
  local ok, text = pcall(f, ...)
  assert(not ok, "expected an error: " .. message)
  assert(tostring(text):find(message, 1, true), tostring(text))
end

-- the ends and the middle
near(schedule.constant(3)(at(7)), 3, "constant")
near(schedule.linear { from = 1, to = 0 }(at(0)), 0.99, "linear, first step")
near(schedule.linear { from = 1, to = 0 }(at(49)), 0.5, "linear, middle")
near(schedule.linear { from = 1, to = 0 }(at(99)), 0, "linear, last step")
near(schedule.linear { from = 1, to = 0 }(at(5000)), 0, "linear, beyond")
near(schedule.exponential { from = 1, to = 0.25 }(at(49)), 0.5, "exponential, middle")
near(schedule.cosine { from = 1, to = 0 }(at(0)), 1, "cosine, first step")
near(schedule.cosine { from = 1, to = 0 }(at(50)), 0.5, "cosine, middle")
near(schedule.cosine { from = 1, to = 0, steps = 10 }(at(10)), 0, "cosine, own length")
near(schedule.cosine { from = 1, to = 0, tokens = 400 }(at(10)), 0.5, "cosine, by tokens")
near(schedule.linear { from = 1, to = 0, begin = 50 }(at(20)), 1, "held at the front")

-- composed
local warm = schedule.warmup(10, schedule.cosine { from = 1, to = 0 })
near(warm(at(0)), 0.2, "warmup, first step")
near(warm(at(5)), 0.6, "warmup, middle")
near(warm(at(10)), 1, "warmup, end: the cosine begins here")
near(warm(at(55)), 0.5, "warmup, middle of what is left")
near(schedule.warmup(10, schedule.constant(1), { start = 0.01 })(at(0)), 0.01, "warmup of the newest trainers")
near(schedule.delay(10, schedule.cosine { from = 1, to = 0 })(at(55)), 0.5, "delay")
near(schedule.mean(schedule.constant(1), schedule.constant(3))(at(0)), 2, "mean")
near(schedule.progress { steps = 20 }(at(5)), 0.25, "progress")

-- the official rule
near(schedule.auto(2, 2)(at(50)), 2, "auto: equal ends")
near(schedule.auto(1, 0)(at(49)), 0.5, "auto: an end at 0")
near(schedule.auto(1, 0.25)(at(49)), 0.5, "auto: powers")
near(schedule.hooks.lr(at(49)), 0.5, "the default lr")
near(schedule.hooks.weight_decay(at(49)), 0.1, "the default weight decay stays")

-- epoch_begin moves the schedule, not the warmup
local later = at(0)
later.epoch_begin = 1
near(schedule.linear { from = 1, to = 0 }(later), 0.49, "epoch_begin")
near(schedule.warmup(10, schedule.constant(1))(later), 0.2, "epoch_begin and warmup")

fails("unknown option 'form'", schedule.linear, { form = 1 })
fails("option 'to' is missing", schedule.linear, { from = 1 })
fails("expected a table of options, got number", schedule.cosine, 1)
fails("must be a number", schedule.cosine, { from = "1", to = 2 })
fails("must both be above 0", schedule.exponential, { from = 1, to = 0 })
fails("'wave' is unknown", schedule.by_name, "wave", 1, 2)
fails("unknown option 'strat'", schedule.warmup, 10, schedule.constant(1), { strat = 1 })
