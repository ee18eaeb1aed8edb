/* rwkv-run bench: how fast a recipe's step is on this machine, and how far from what the machine could do.
 *
 * The floor is measured in the same run: the step's own products alone in the library's plain form, and every byte that
 * fused kernels must move once, at the rate of a copy:
 *     floor = products + (fused + loss + update) / copy rate
 *     fused    a token and layer: x052 64.5, x060 100, x070 98 activations of n_embd numbers, both ways
 *     loss     a token: vocab_size numbers read, written, and read twice more by the products (these are counted there)
 *     update   a parameter: what its form reads and writes (kernels/adamw.h) */
#ifndef RW_BENCH_BENCH_H
#define RW_BENCH_BENCH_H

#include "core/base/str.h"
#include "core/recipe/plan.h"
#include "kernels/device.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    const char *name;
    int64_t calls;  /* in a step */
    double seconds; /* of all of them, alone */
} rw_bench_kernel;

#define RW_BENCH_MAX_KERNELS 64

typedef struct {
    double tokens;        /* of a step                                   */
    double step, fastest; /* seconds: median, smallest                   */
    double product_flops;
    double products, products_plain; /* seconds: as the step has them; alone in plain form */
    double copy_rate;                /* bytes read and written, a second                    */
    double product_rate;             /* operations a second of one large product            */
    double fused_bytes, loss_bytes, update_bytes;
    double floor; /* seconds */
    int64_t device_bytes, planned_bytes;
    rw_bench_kernel kernels[RW_BENCH_MAX_KERNELS];
    int n_kernels;
} rw_bench_result;

/* Trains `n_steps` steps (0: as many as some seconds allow) of the plan's model with random weights on random tokens.
 */
rw_status rw_bench_run(rw_bench_result *r, const rw_plan *plan, rw_device *device, int64_t n_steps, rw_error *err);
void rw_bench_print(const rw_bench_result *r, const rw_plan *plan, const rw_device *device, bool json, rw_str *out);

#ifdef __cplusplus
}
#endif
#endif
