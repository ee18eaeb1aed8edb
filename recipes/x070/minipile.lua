-- What the official x070 trainer does with --my_exit_tokens 1498226207: a cosine over this many tokens, behind a
-- warmup that begins at 1 % (rwkv.schedule begins at 20 %, as older trainers do), and the end when they are used.

local schedule = require "rwkv.schedule"

local tokens = 1498226207

local used = schedule.progress { tokens = tokens, ahead = 1 }

return {
  lr = function(trainer)
    local cosine = schedule.cosine { from = trainer.lr_init, to = trainer.lr_final, tokens = tokens }
    return schedule.warmup(trainer.warmup_steps, cosine, { start = 0.01 })(trainer)
  end,

  on_train_batch_end = function(trainer)
    if used(trainer) >= 1 then trainer:stop("the tokens are used") end
  end,
}
