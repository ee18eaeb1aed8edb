/* Initial values that several architectures share: see formula.h. */
#include "core/model/formula.h"

#include <math.h>

double rw_init_lower(const void *site, int64_t i) {
    const int64_t side = ((const rw_init_site *)site)->shape->copy_ctx;
    return i % side <= i / side;
}

double rw_init_mix(const void *site, int64_t i) {
    return pow(rw_init_x(site, i), rw_init_r(site));
}

double rw_init_mix_value(const void *site, int64_t i) {
    return pow(rw_init_x(site, i), rw_init_r(site)) + 0.3 * rw_init_q(site);
}

double rw_init_mix_half(const void *site, int64_t i) {
    return pow(rw_init_x(site, i), 0.5 * rw_init_r(site));
}

double rw_init_decay(const void *site, int64_t i) {
    const rw_init_site *s = site;
    double n = (double)(s->shape->n_embd - 1);
    return -6.0 + 5.0 * pow((double)i / n, 0.7 + 1.3 * rw_init_q(s));
}

double rw_init_bonus(const void *site, int64_t i) {
    const rw_init_site *s = site;
    double n = (double)(s->shape->n_embd - 1), zigzag = (double)((i + 1) % 3 - 1) * 0.1;
    return rw_init_q(s) * (1.0 - (double)i / n) + zigzag;
}

double rw_init_ln_x(const void *site, int64_t i) {
    const rw_init_site *s = site;
    (void)i;
    return pow((double)(1 + s->layer) / (double)s->shape->n_layer, 0.7);
}
