/* Many random numbers at once, vectors wide. A number is a function of (seed, stream, its place), as in
 * core/base/rng.h. */
#ifndef RW_KERNELS_CPU_RANDOM_H
#define RW_KERNELS_CPU_RANDOM_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define RW_NORMAL_BLOCK 32 /* numbers that are made together */

/* x[0 .. n): mean 0, deviation 1, the numbers from place RW_NORMAL_BLOCK * block of the stream on; others than those of
 * rw_rng_normal(). On the calling thread. From uniform numbers of 32 bits: |x| < 6.8. */
void rw_cpu_f32_normals(uint64_t seed, uint64_t stream, uint64_t block, int64_t n, float *x);
void rw_cpu_f64_normals(uint64_t seed, uint64_t stream, uint64_t block, int64_t n, double *x);

/* x[0 .. n): bound * (2 u - 1), in double and then rounded, for the numbers u that rw_rng_uniform() gives from index
 * `first` on: [-bound, bound). On the calling thread. */
void rw_cpu_f32_uniforms(uint64_t seed, uint64_t stream, uint64_t first, int64_t n, double bound, float *x);
void rw_cpu_f64_uniforms(uint64_t seed, uint64_t stream, uint64_t first, int64_t n, double bound, double *x);

#ifdef __cplusplus
}
#endif
#endif
