# Draws the training and the held-out loss of a metrics.jsonl as text.
#
#   LC_ALL=C awk -v columns=100 -v utf8=1 -f plot.awk output/metrics.jsonl
#
# Lines are flat JSON objects; those with "step" and "loss" make the training curve, those with "step" and
# "val_loss" the held-out one. The training loss is averaged over the steps that fall into one column. The
# vertical axis is logarithmic: a loss falls fast at first and slowly then. Any awk will do (LC_ALL=C makes
# all of them count bytes).
# -v columns=N  width in characters (80)    -v rows=N  height of the plot (16)    -v utf8=1  finer signs
# -v zh=1  in Chinese (else as $RWKV_LANG or $LANG says)

BEGIN {
    language = ENVIRON["RWKV_LANG"] != "" ? ENVIRON["RWKV_LANG"] : ENVIRON["LANG"]
    if (zh == "") zh = language ~ /^zh/
}

function number(key,    at, rest) {
    at = index($0, "\"" key "\":")
    if (!at) return ""
    rest = substr($0, at + length(key) + 3)
    sub(/^[ \t]*/, "", rest)
    if (rest !~ /^-?[0-9]/) return ""    # null, or NaN: not known
    sub(/[,}].*$/, "", rest)
    return rest + 0
}

function widen(value) {
    if (value <= 0) return
    if (!seen || value < low) low = value
    if (!seen || value > high) high = value
    seen = 1
}

# Row of a loss: 1 at the bottom.
function row_of(value,    r) {
    r = 1 + int((log(value) - log(low)) / (log(high) - log(low)) * (rows - 1) + 0.5)
    return r < 1 ? 1 : (r > rows ? rows : r)
}

function column_of(step,    c) {
    c = 1 + int((step - first) / (last - first) * (width - 1) + 0.5)
    return c < 1 ? 1 : (c > width ? width : c)
}

# The tick that lies in this row, as text, or "".
function tick(r,    i) {
    for (i = 1; i <= n_ticks; i++)
        if (ticks[i] >= low && ticks[i] <= high && row_of(ticks[i]) == r) return ticks[i] ""
    return ""
}

function repeat(text, n,    out) {
    while (n-- > 0) out = out text
    return out
}

{
    step = number("step")
    if (step == "") next
    loss = number("loss")
    if (loss != "" && loss > 0) { n_train++; train_step[n_train] = step; train[n_train] = loss }
    loss = number("val_loss")
    if (loss != "" && loss > 0) { n_valid++; valid_step[n_valid] = step; valid[n_valid] = loss }
    if (!n_lines++ || step < first) first = step
    if (step > last) last = step
}

END {
    if (n_train < 2 || last <= first) { print zh ? "不足两步，画不出曲线" : "plot: fewer than two steps to draw"; exit 1 }
    if (columns < 40) columns = columns > 0 ? 40 : 80
    if (rows < 4) rows = 16
    width = columns - 9
    dot = utf8 ? "\342\200\242" : "."       # bullet
    ring = utf8 ? "\342\227\213" : "o"      # circle
    bar = utf8 ? "\342\224\202" : "|"
    cross = utf8 ? "\342\224\244" : "+"
    line = utf8 ? "\342\224\200" : "-"
    corner = utf8 ? "\342\224\224" : "+"

    for (i = 1; i <= n_train; i++) { c = column_of(train_step[i]); sum[c] += train[i]; count[c]++ }
    for (c in sum) widen(sum[c] / count[c])
    for (i = 1; i <= n_valid; i++) widen(valid[i])
    if (high <= low * 1.01) { low /= 1.1; high *= 1.1 }
    for (c in sum) cell[c, row_of(sum[c] / count[c])] = dot
    for (i = 1; i <= n_valid; i++) cell[column_of(valid_step[i]), row_of(valid[i])] = ring

    n_ticks = split("0.01 0.02 0.05 0.1 0.2 0.5 1 2 5 10 20 50", ticks, " ")
    for (i = 1; i <= n_ticks; i++) ticks[i] += 0
    print zh ? "  损失（nat/字节）    " dot " 训练    " ring " 验证" : "  loss, nats per byte    " dot " training    " ring " held out"
    for (r = rows; r >= 1; r--) {
        label = tick(r)
        text = sprintf("%6s ", label) (label == "" ? bar : cross)
        blank = 0
        for (c = 1; c <= width; c++) {
            if ((c, r) in cell) { text = text repeat(" ", blank) cell[c, r]; blank = 0 }
            else blank++
        }
        print text
    }
    print repeat(" ", 7) corner repeat(line, width)
    end = zh ? "第 " last " 步" : "step " last
    print repeat(" ", 8) first repeat(" ", width - length(first "") - length(last "") - (zh ? 6 : 5)) end
    summary = sprintf(zh ? "训练 %.4f" : "training %.4f", tail_mean())
    if (n_valid) summary = summary sprintf(zh ? "，验证 %.4f" : ", held out %.4f", valid[n_valid])
    print (zh ? "  最后：" : "  at the end: ") summary
}

# Mean training loss over the last twentieth of the lines: one step alone is noisy.
function tail_mean(    i, from, total) {
    from = n_train - int(n_train / 20)
    for (i = from; i <= n_train; i++) total += train[i]
    return total / (n_train - from + 1)
}
