/* What one block hands to those after it, in an architecture made for this test and registered at run time: block 0's
 * product is added in every later block. Its gradient comes from all of them, through checkpointed blocks too. */
#include "core/model/model.h"
#include "core/model/role_rows.h"
#include "tests/unit/tensor/tape_test.h"

enum { L = 3, C = 32, V = 7, R = 5 };

#define ROLES(X)                                                                                                       \
    RW_ROLES_BEFORE(X)                                                                                                 \
    X(LN0_W, "ln0.weight", "C", FIRST, 1, PLAIN, CONSTANT(1))                                                          \
    X(LN0_B, "ln0.bias", "C", FIRST, 1, PLAIN, CONSTANT(0))                                                            \
    X(MATRIX, "matrix.weight", "C C", EVERY, 0, MATRIX, ORTHOGONAL(1))                                                 \
    RW_ROLES_AFTER(X)
enum { ROLES(RW_ROLE_ENUM) N_ROLES };
static const rw_role roles[] = {ROLES(RW_ROLE_ROW)};

static rw_tensor *block(const rw_model *m, rw_tape *t, rw_block_io *io) {
    rw_tensor *h = rw_matmul(t, io->x, rw_role_of(m, io->layer, MATRIX), true, NULL);
    if (io->layer == 0)
        io->carry[1] = h;
    else
        h = rw_binary(t, RW_BINARY_ADD, h, io->carry[1]);
    return rw_binary(t, RW_BINARY_ADD, io->x, rw_unary(t, RW_UNARY_TANH, h, 0));
}

static const rw_arch carrying = {.name = "carrying", .roles = roles, .n_roles = N_ROLES, .block = block};

static bench b;
static rw_model *model;
static const int32_t tokens[R] = {1, 5, 2, 2, 6}, targets[R] = {5, 2, 2, 6, 0};

/* The sum of losses; with gradients when recording. */
static double run(rw_checkpoint_choice level, bool record) {
    rw_error err = {0};
    rw_tape_reset(b.tape);
    rw_tape_record(b.tape, record);
    rw_params_begin_step(model->params);
    rw_tensor *h = rw_model_forward(model, b.tape, (rw_rows){R, 1, NULL}, tokens, NULL, NULL, level);
    rw_tensor *loss = rw_head_loss(b.tape, h, model->head, targets, NULL, R);
    must(rw_tape_error(b.tape, &err), &err);
    double sum = 0;
    for (int i = 0; i < R; i++) sum += ((double *)loss->data)[i];
    if (record) must(rw_tape_backward(b.tape, &err), &err);
    rw_tape_reset(b.tape);
    assert_int_equal(b.arena.live, 0);
    return sum;
}

static void gradient_of_block_0(void **state) {
    (void)state;
    rw_tensor *x = rw_role_of(model, 0, MATRIX);
    double *values = x->data, worst = 0, h = 1e-5;
    run(0, true);
    for (int i = 0; i < C * C; i += 37) {
        double was = values[i], gradient = ((double *)x->grad)[i];
        values[i] = was + h;
        double up = run(0, false);
        values[i] = was - h;
        double down = run(0, false);
        values[i] = was;
        worst = fmax(worst, fabs((up - down) / (2 * h) - gradient));
    }
    print_message("  largest difference %.1e\n", worst);
    assert_true(worst < 1e-8);
}

static void checkpointed(void **state) {
    (void)state;
    const rw_flat *grads = model->params->flat[RW_PARAM_GRAD];
    size_t n = (size_t)grads[RW_MATRIX].n, all = n + (size_t)grads[RW_VECTOR].n;
    double *kept = rw_alloc_array(all, sizeof *kept), whole = run(0, true);
    if (n) memcpy(kept, grads[RW_MATRIX].data, n * sizeof *kept);
    memcpy(kept + n, grads[RW_VECTOR].data, (all - n) * sizeof *kept);
    for (int level = RW_CHECKPOINT_MIX; level <= RW_CHECKPOINT_BLOCK; level++) {
        assert_true(run(level, true) == whole);
        if (n) assert_memory_equal(kept, grads[RW_MATRIX].data, n * sizeof *kept);
        assert_memory_equal(kept + n, grads[RW_VECTOR].data, (all - n) * sizeof *kept);
    }
    rw_free(kept);
}

static int open_model(void **state) {
    (void)state;
    rw_error err = {0};
    bench_open(&b);
    must(rw_arch_register(&carrying, &err), &err);
    rw_plan_model shape = {.arch = "carrying", .n_layer = L, .n_embd = C, .vocab_size = V};
    rw_model_options train = {.train = true};
    rw_arch_default_shape(&carrying, &shape);
    must(rw_model_new(&model, &shape, b.device, &train, &err), &err);
    must(rw_model_init(model, 3, &err), &err);
    return 0;
}

static int close_model(void **state) {
    (void)state;
    rw_model_free(model);
    bench_close(&b);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(gradient_of_block_0), cmocka_unit_test(checkpointed)};
    return cmocka_run_group_tests(tests, open_model, close_model);
}
