/* The groups of every architecture against the official rule, which goes by names: RWKV-LM's configure_optimizers. */
#include "core/optim/optim.h"
#include "tests/unit/plan/golden_model.h"

static bool has(const char *name, const char *part) {
    return strstr(name, part) != NULL;
}

static int rank_of(const rw_segment *s) {
    int rank = 0;
    for (int i = 0; i < s->ndim; i++) rank += s->shape[i] > 1;
    return rank;
}

/* First match wins. */
static double official_scale(const char *name, bool stage2) {
    if (has(name, "_w1") || has(name, "_w2")) return 1;
    if (has(name, "time_mix") || has(name, "time_maa") || has(name, "time_faaaa")) return stage2 ? 5 : 1;
    if (has(name, "time_decay")) return stage2 ? 5 : 2;
    return has(name, "att.w0") ? 2 : 1;
}

static void check(const rw_layout *l, const rw_plan_train *plan) {
    for (size_t i = 0; i < l->n_segments; i++) {
        const rw_segment *s = &l->segments[i];
        double scale = plan->layerwise_lr ? official_scale(s->name, plan->my_pile_stage == 2) : 1;
        bool decay = plan->weight_decay > 0 && has(s->name, ".weight") && rank_of(s) >= 2;
        if (s->lr_scale != scale || s->decay != decay)
            fail_msg("%s: lr scale %g decay %d, official %g and %d", s->name, s->lr_scale, s->decay, scale, decay);
    }
}

static void official_rule(void **state) {
    (void)state;
    rw_error err = {0};
    rw_device *device;
    must(rw_device_open_cpu(&device, RW_F32, 1, &err), &err);
    for (int i = 0; rw_arch_at(i); i++)
        for (int form = 0; form < 4; form++) {
            rw_plan_train plan = {.layerwise_lr = form != 0, .my_pile_stage = form == 2 ? 2 : 0};
            plan.weight_decay = form == 3 ? 0 : 0.1;
            rw_plan_model shape = {.arch = rw_arch_at(i)->name, .n_layer = 2, .n_embd = 64, .vocab_size = 99};
            rw_arch_default_shape(rw_arch_at(i), &shape); /* one head: [1,N] counts as a vector */
            rw_model *m;
            must(rw_model_new(&m, &shape, device, NULL, &err), &err);
            rw_optim_groups(&m->params->layout, &plan);
            check(&m->params->layout, &plan);
            rw_model_free(m);
        }
    rw_device_close(device);
}

/* Only initial states learn, in the group of the matrices. */
static void states_alone(void **state) {
    (void)state;
    rw_error err = {0};
    rw_device *device;
    rw_model *m;
    int n = 0;
    must(rw_device_open_cpu(&device, RW_F32, 1, &err), &err);
    rw_plan_train plan = {.train_type = RW_TRAIN_STATES, .layerwise_lr = true, .weight_decay = 0.1};
    rw_plan_model shape = {.arch = "x060", .n_layer = 2, .n_embd = 64, .vocab_size = 99, .time_state = 1};
    rw_arch_default_shape(&rw_arch_x060, &shape);
    must(rw_model_new(&m, &shape, device, NULL, &err), &err);
    rw_optim_groups(&m->params->layout, &plan);
    for (size_t i = 0; i < m->params->layout.n_segments; i++) {
        const rw_segment *s = &m->params->layout.segments[i];
        assert_int_equal(s->trainable, has(s->name, "time_state"));
        if (!s->trainable) continue;
        assert_true(s->decay && s->lr_scale == 1);
        assert_int_equal(s->cls, RW_VECTOR); /* wide */
        n++;
    }
    assert_int_equal(n, 2);
    rw_model_free(m);
    rw_device_close(device);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(official_rule), cmocka_unit_test(states_alone)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
