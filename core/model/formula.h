/* Initial values that several architectures share, as RWKV-LM has them. With L layers of C channels:
 *     r = 1 - layer / L,  from 1 towards 0;   q = layer / (L - 1),  from 0 to 1;   x = i / C of element i */
#ifndef RW_MODEL_FORMULA_H
#define RW_MODEL_FORMULA_H

#include "core/model/arch.h"

#ifdef __cplusplus
extern "C" {
#endif

static inline double rw_init_r(const rw_init_site *s) {
    return 1.0 - (double)s->layer / (double)s->shape->n_layer;
}
static inline double rw_init_q(const rw_init_site *s) {
    return s->shape->n_layer > 1 ? (double)s->layer / (double)(s->shape->n_layer - 1) : 0; /* one layer: as the first */
}
static inline double rw_init_x(const rw_init_site *s, int64_t i) {
    return (double)i / (double)s->shape->n_embd;
}

/* Each is the `formula` of a role: site is an rw_init_site. */
double rw_init_lower(const void *site, int64_t i);     /* [T,T]: 1 up to the diagonal, 0 after it       */
double rw_init_mix(const void *site, int64_t i);       /* x^r                                           */
double rw_init_mix_value(const void *site, int64_t i); /* x^r + 0.3 q                                   */
double rw_init_mix_half(const void *site, int64_t i);  /* x^(r/2)                                       */
double rw_init_decay(const void *site, int64_t i);     /* -6 + 5 (i / (C-1))^(0.7 + 1.3 q)              */
double rw_init_bonus(const void *site, int64_t i);     /* q (1 - i / (C-1)) + 0.1 ((i+1) mod 3 - 1)     */
double rw_init_ln_x(const void *site, int64_t i);      /* ((1 + layer) / L)^0.7                         */

#ifdef __cplusplus
}
#endif
#endif
