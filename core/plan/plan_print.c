/* The plan for people, and plan.yaml. */
#include "core/base/fs.h"
#include "core/base/json.h"
#include "core/base/printable.h"
#include "core/base/thread.h"
#include "core/model/arch.h"
#include "core/plan/make_plan.h"

#include <stdio.h>
#include <string.h>

static void label(rw_str *out, const char *name) {
    int width = rw_utf8_columns(name, strlen(name));
    rw_str_appendf(out, "  %s%*s ", name, width < 26 ? 26 - width : 0, "");
}

static void row(rw_str *out, const char *name, const char *text) {
    label(out, name);
    rw_str_append_printable(out, text);
    rw_str_append(out, "\n");
}

static void bytes_row(rw_str *out, const char *name, int64_t n, bool on_gpu) {
    char buf[32];
    label(out, name);
    rw_str_appendf(out, "%10s%s\n", rw_format_bytes(buf, sizeof buf, n), on_gpu ? "  GPU" : "");
}

static void print_shape(const rw_plan *p, rw_str *out) {
    char count[32];
    rw_str sizes = {0};
    rw_format_count(count, sizeof count, p->needs.n_params);
    rw_str_appendf(&sizes, rw_message("%s, %s parameters: "), p->model.arch, count);
    rw_dims_print(&p->model, &sizes);
    row(out, rw_message("model"), sizes.data ? sizes.data : "");
    row(out, rw_message("weights from"), p->model.load_model ? p->model.load_model : rw_message("initial values"));
    rw_str_done(&sizes);
}

static void print_data(const rw_plan *p, rw_str *out) {
    char line[512], count[32], tokens[64];
    snprintf(tokens, sizeof tokens, "%s", rw_message("counted when it is read"));
    if (p->data.n_tokens >= 0)
        snprintf(tokens, sizeof tokens, rw_message("%s tokens"),
                 rw_format_count(count, sizeof count, p->data.n_tokens));
    snprintf(line, sizeof line, rw_message("%s (%s, tokenizer %s): %s"), p->data.data_file,
             rw_choice_word(RW_KEY_data_data_type, p->data.data_type),
             rw_choice_word(RW_KEY_data_tokenizer, p->data.tokenizer), tokens);
    row(out, rw_message("data"), line);
    if (p->data.valid_file) row(out, rw_message("held-out data"), p->data.valid_file);
}

static const char *const form_texts[] = {
    [RW_FORM_AUTO] = "",
    [RW_FORM_FP32] = "weights, gradients and moments in fp32",
    [RW_FORM_A16] = "bf16 weights with an fp32 master copy, fp32 moments",
    [RW_FORM_B12] = "bf16 weights rounded at random, fp32 moments",
    [RW_FORM_B8] = "bf16 weights and moments rounded at random",
};

static const char *const checkpoint_texts[] = {
    [RW_CHECKPOINT_NONE] = "all activations are kept",
    [RW_CHECKPOINT_MIX] = "inputs of products are made again",
    [RW_CHECKPOINT_FFN] = "inputs of products and inner activations are made again",
    [RW_CHECKPOINT_BLOCK] = "each block is computed again from its input",
    [RW_CHECKPOINT_AUTO] = "",
};

static void print_steps(const rw_plan *p, rw_str *out) {
    char line[256], a[32], b[32];
    const rw_plan_train *t = &p->train;
    snprintf(line, sizeof line, rw_message("%lld (epochs: %lld of %lld steps); %s tokens a step, %s in total"),
             (long long)t->n_steps, (long long)t->epoch_count, (long long)t->epoch_steps,
             rw_format_count(a, sizeof a, p->needs.tokens_per_step),
             rw_format_count(b, sizeof b, p->needs.tokens_total));
    row(out, rw_message("steps"), line);
    snprintf(line, sizeof line, rw_message("micro_bsz %lld x ctx_len %lld x accumulate %lld; lr %g to %g; %s"),
             (long long)t->micro_bsz, (long long)t->ctx_len, (long long)t->accumulate, t->lr_init, t->lr_final,
             t->weight_decay > 0 ? "AdamW" : "Adam");
    row(out, rw_message("batch"), line);
    snprintf(line, sizeof line, rw_message("%s: %s; %.1f bytes a parameter"),
             rw_choice_word(RW_KEY_train_optim_form, t->optim_form), rw_message(form_texts[t->optim_form]),
             (double)p->needs.param_bytes / (double)p->needs.n_params);
    row(out, rw_message("stored as"), line);
    snprintf(line, sizeof line, "%s: %s", rw_choice_word(RW_KEY_train_checkpoint, t->checkpoint),
             rw_message(checkpoint_texts[t->checkpoint]));
    row(out, rw_message("checkpoint"), line);
}

static void print_files(const rw_plan *p, rw_str *out) {
    char a[32], b[32], line[256];
    int64_t bytes = p->needs.pth_bytes + p->needs.state_bytes;
    const char *free =
        p->needs.disk_free >= 0 ? rw_format_bytes(b, sizeof b, p->needs.disk_free) : rw_message("unknown");
    rw_format_bytes(a, sizeof a, bytes);
    snprintf(line, sizeof line, rw_message("%s (%s .pth + %s training state); free disk %s"), a,
             rw_dtype_name(p->save.dtype), "fp32", free);
    row(out, rw_message("each save"), line);
    row(out, rw_message("saved to"), p->save.proj_dir);
    if (p->needs.disk_free >= 0 && p->needs.disk_free < bytes)
        rw_str_appendf(out, rw_message("  WARNING: the disk has no room for one save of %s\n"), a);
}

static void print_parts(const rw_plan *p, bool ours, rw_str *out) {
    const bool gpu = p->device == RW_ON_CUDA;
    for (int i = 0; i < p->needs.n_parts; i++) {
        const rw_plan_part *part = &p->needs.parts[i];
        if (part->ours != ours) continue;
        bytes_row(out, part->name, part->n_bytes, gpu && part->place == RW_MEMORY_DEVICE);
    }
}

/* On a CPU the device's memory is the process's. */
static void print_memory(const rw_plan *p, rw_str *out) {
    const rw_plan_needs *n = &p->needs;
    const bool gpu = p->device == RW_ON_CUDA;
    int64_t process = n->bytes[RW_MEMORY_HOST] + (gpu ? 0 : n->bytes[RW_MEMORY_DEVICE]), limit = rw_memory_limit();
    char have[32];
    rw_str_append(out, rw_message("memory\n"));
    print_parts(p, true, out);
    bytes_row(out, rw_message("engine, total"), n->engine_bytes, false);
    print_parts(p, false, out);
    if (gpu) bytes_row(out, rw_message("GPU, total"), n->bytes[RW_MEMORY_DEVICE], true);
    bytes_row(out, rw_message("process, roughly"), process, false);
    if (limit > 0 && process > limit && n->engine_bytes <= limit) /* more than that is refused: rw_plan_fits */
        rw_str_appendf(
            out,
            rw_message(
                "  WARNING: this machine has %s; lower train.micro_bsz or data.ctx_len, or set train.checkpoint\n"),
            rw_format_bytes(have, sizeof have, limit));
}

/* As the recipe has it, which is not the number type: tf32 stands for products of fp32. */
static const char *computes_in(const rw_plan *p) {
    return rw_choice_word(RW_KEY_train_precision, p->device == RW_ON_CUDA ? p->train.precision : RW_PRECISION_FP32);
}

void rw_plan_print(const rw_plan *p, rw_str *out) {
    char line[256], name[512];
    rw_printable(name, sizeof name, p->name);
    rw_str_appendf(out, rw_message("plan of %s\n"), name);
    print_shape(p, out);
    print_data(p, out);
    print_steps(p, out);
    snprintf(line, sizeof line, rw_message("%s: %s, threads: %d; computes in %s"),
             rw_choice_word(RW_KEY_top_device, p->device), p->device_name ? p->device_name : "", p->threads,
             computes_in(p));
    row(out, rw_message("device"), line);
    if (p->no_gpu) row(out, rw_message("no GPU"), p->no_gpu);
    print_files(p, out);
    print_memory(p, out);
}

/* Those of a saved run come from its file. */
static void print_choice(const rw_pair *choice, rw_str *out) {
    rw_str_append(out, "  ");
    rw_str_append_printable(out, choice->name);
    rw_str_append(out, ": ");
    rw_json_append_string(out, choice->value, strlen(choice->value));
    rw_str_append(out, "\n");
}

/* As a YAML block: each line behind two spaces. */
static void append_block(rw_str *out, const char *text) {
    for (const char *line = text; line && *line;) {
        size_t len = strcspn(line, "\n");
        rw_str_appendf(out, "  %.*s\n", (int)len, line);
        line += len + (line[len] == '\n');
    }
}

rw_status rw_plan_write(const rw_plan *plan, const rw_recipe *recipe, const char *device_choices, rw_error *err) {
    rw_str text = {0};
    rw_str_append(&text, "# What this run decided by itself.\nchosen:\n");
    for (int i = 0; i < plan->choices.n; i++) print_choice(&plan->choices.at[i], &text);
    rw_str_append(&text, "# The recipe it ran, with the origin of each value.\nrecipe: |\n");
    rw_str effective = {0};
    rw_recipe_print(recipe, plan, &effective);
    append_block(&text, effective.data);
    if (device_choices) {
        rw_str_append(&text, "# What the device chose for the shapes that it had met by then.\ndevice_choices: |\n");
        append_block(&text, device_choices);
    }
    char path[4096];
    snprintf(path, sizeof path, "%s/plan.yaml", plan->save.proj_dir);
    rw_status status = text.failed || effective.failed
                           ? rw_fail(err, RW_E_MEMORY, RW_AT_NONE, "not enough memory for plan.yaml")
                           : rw_write_file(path, text.data, (int64_t)text.len, err);
    rw_str_done(&text);
    rw_str_done(&effective);
    return status;
}
