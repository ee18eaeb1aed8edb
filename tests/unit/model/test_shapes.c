/* The step arena is sized by one pass of the most rows and sequences. Every smaller pass must fit it, at the same
 * addresses: checked on the meta device, with every length of a prompt and with random borders of packed rows. */
#include "core/model/model.h"
#include "tests/unit/tensor/tape_test.h"

enum { PREFILL = 128, ROWS = 384, SEQUENCES = 24 };

typedef struct {
    rw_device *cpu, *meta;
    rw_model *model;
    rw_step_arena arena;
    rw_tape *tape;
    int32_t tokens[1]; /* never read */
} fixture;

static void open_tape(fixture *f, int64_t capacity, int64_t rows, int64_t sequences) {
    rw_error err = {0};
    must(rw_step_arena_init(&f->arena, f->meta, capacity, &err), &err);
    must(rw_tape_new(&f->tape, f->meta, &f->arena, &err), &err);
    rw_tape_at_most(f->tape, rows, sequences);
}

static void close_tape(fixture *f) {
    rw_tape_free(f->tape);
    assert_int_equal(f->arena.live, 0);
    rw_step_arena_done(&f->arena);
}

static void open_model(fixture *f, int64_t n_layer, int64_t n_embd, int64_t vocab) {
    rw_error err = {0};
    must(rw_device_open_cpu(&f->cpu, RW_F32, 2, &err), &err);
    must(rw_device_open_meta(&f->meta, f->cpu, &err), &err);
    rw_plan_model shape = {.arch = "x060",
                           .n_layer = n_layer,
                           .n_embd = n_embd,
                           .vocab_size = vocab,
                           .head_size = 64,
                           .n_head = n_embd / 64,
                           .dim_ffn = n_embd * 7 / 2,
                           .lora_mix = 32,
                           .lora_decay = 64,
                           .head_size_divisor = 8};
    rw_model_options train = {.train = true};
    must(rw_model_new(&f->model, &shape, f->meta, &train, &err), &err);
}

static void close_model(fixture *f) {
    rw_model_free(f->model);
    rw_device_close(f->meta);
    rw_device_close(f->cpu);
}

/* -- prompts ------------------------------------------------------------------------------------------------------ */

/* One sequence; data that nobody reads. */
static void state_of(fixture *f, rw_state *s) {
    int64_t shape[1 + RW_MAX_DIM] = {1};
    for (int k = 0; k < f->model->arch->n_fields; k++) {
        int n = rw_shape_sizes(f->model->arch->fields[k].shape, &f->model->shape, shape + 1);
        for (int l = 0; l < f->model->shape.n_layer; l++)
            s->at[k][l] = rw_tape_wrap(f->tape, RW_F32, 1 + n, shape, f->tokens);
    }
}

/* One piece of a prompt; the address of its logits. */
static void *prefill(fixture *f, int64_t n) {
    rw_error err = {0};
    rw_state *s = rw_alloc_array(2, sizeof *s);
    rw_tape_reset(f->tape);
    rw_tape_record(f->tape, false);
    state_of(f, &s[0]);
    rw_rows rows = {.n_rows = n, .n_seq = 1};
    rw_tensor *hidden = rw_model_forward(f->model, f->tape, rows, f->tokens, &s[0], &s[1], 0);
    rw_tensor *logits = hidden ? rw_model_logits(f->model, f->tape, hidden) : NULL;
    if (!logits) fail_msg("%d rows: %s", (int)n, rw_tape_error(f->tape, &err) ? err.msg : "no logits");
    void *at = logits->data;
    rw_free(s);
    return at;
}

static void every_prompt(void **state) {
    (void)state;
    static const int64_t sizes[][3] = {
        {3, 128, 1000}, {4, 512, 2048}, {12, 768, 257}, {12, 768, 65536}, {24, 2048, 65536}};
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
        fixture f;
        open_model(&f, sizes[k][0], sizes[k][1], sizes[k][2]);
        open_tape(&f, 0, PREFILL, 1);
        void *logits = prefill(&f, PREFILL);
        int64_t high_water = f.arena.high_water;
        close_tape(&f);
        open_tape(&f, high_water, PREFILL, 1);
        for (int64_t n = 1; n <= PREFILL; n++) {
            f.arena.high_water = 0;
            assert_ptr_equal(prefill(&f, n), logits);
            assert_int_equal(f.arena.high_water, high_water);
        }
        close_tape(&f);
        close_model(&f);
    }
}

/* -- training ----------------------------------------------------------------------------------------------------- */

static void *train(fixture *f, rw_rows rows, rw_checkpoint_choice level, int64_t chunk) {
    rw_error err = {0};
    static const int32_t borders[1]; /* never read */
    rw_tape_reset(f->tape);
    rw_tape_record(f->tape, true);
    rows.cu_seqlens = borders;
    rw_tensor *hidden = rw_model_forward(f->model, f->tape, rows, f->tokens, NULL, NULL, level);
    rw_tensor *loss = hidden ? rw_head_loss(f->tape, hidden, f->model->head, f->tokens, NULL, chunk) : NULL;
    void *at = loss ? loss->data : NULL;
    if (loss) rw_tape_backward(f->tape, NULL);
    if (rw_tape_error(f->tape, &err)) fail_msg("%d rows in %d: %s", (int)rows.n_rows, (int)rows.n_seq, err.msg);
    return at;
}

static void random_batches(fixture *f, rw_rng *rng, rw_checkpoint_choice level, int64_t chunk) {
    open_tape(f, 0, ROWS, SEQUENCES);
    void *loss = train(f, (rw_rows){ROWS, SEQUENCES, NULL}, level, chunk);
    int64_t high_water = f->arena.high_water;
    close_tape(f);
    open_tape(f, high_water, ROWS, SEQUENCES);
    for (int i = 0; i < 200; i++) {
        rw_rows rows = {.n_rows = 1 + (int64_t)rw_rng_below(rng, ROWS)};
        rows.n_seq = 1 + (int64_t)rw_rng_below(rng, SEQUENCES);
        f->arena.high_water = 0;
        assert_ptr_equal(train(f, rows, level, chunk), loss);
        assert_int_equal(f->arena.high_water, high_water);
    }
    close_tape(f);
}

static void every_batch(void **state) {
    (void)state;
    fixture f;
    rw_rng rng = {3, 1, 0};
    open_model(&f, 3, 256, 1000);
    for (int k = 0; k < 8; k++) random_batches(&f, &rng, k % 4, k < 4 ? ROWS : 100);
    close_model(&f);
}

static void more_than_announced(void **state) {
    (void)state;
    fixture f;
    rw_error err = {0};
    open_model(&f, 2, 128, 100);
    open_tape(&f, 0, ROWS, 2);
    assert_null(rw_model_forward(f.model, f.tape, (rw_rows){ROWS + 1, 1, NULL}, f.tokens, NULL, NULL, 0));
    assert_int_equal(rw_tape_error(f.tape, &err), RW_E_SHAPE);
    assert_string_equal(err.msg, "embedding: 385 rows, but memory is for 384");
    rw_tape_reset(f.tape);
    assert_null(rw_model_forward(f.model, f.tape, (rw_rows){ROWS, 3, NULL}, f.tokens, NULL, NULL, 0));
    assert_int_equal(rw_tape_error(f.tape, &err), RW_E_SHAPE);
    assert_string_equal(err.msg, "token_shift: 384 rows in 3 sequences, but memory is for 384 in 2");
    rw_tape_reset(f.tape);
    close_tape(&f);
    close_model(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_prompt), cmocka_unit_test(every_batch),
                                       cmocka_unit_test(more_than_announced)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
