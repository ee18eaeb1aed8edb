/* What every file of kernels/cpu begins with. Each of them is compiled twice, with `real` = float (RW_REAL_F32) and
 * `real` = double (RW_REAL_F64): the fp64 build is the reference for all others. Names get the suffix of the build. */
#ifndef RW_KERNELS_CPU_CPU_H
#define RW_KERNELS_CPU_CPU_H

#include "kernels/device.h"

#include <math.h>
#include <omp.h>

#define RW_CONCAT_(a, b) a##b
#define RW_CONCAT(a, b)  RW_CONCAT_(a, b)

#if defined(RW_REAL_F64)
typedef double real;
#define RW_CPU_NAME(name) RW_CONCAT(rw_cpu_f64_, name)
#define RW_REAL_DTYPE     RW_F64
#else
typedef float real;
#define RW_CPU_NAME(name) RW_CONCAT(rw_cpu_f32_, name)
#define RW_REAL_DTYPE     RW_F32
#endif

/* One binary for any x86-64: the loops of a function marked so are compiled for AVX-512, AVX2 and the baseline, and
 * the processor's best is chosen when the program starts. GCC 11, of Ubuntu 22.04, chooses by one feature alone: the
 * one that all lengths of a loop have in common, or the bits would depend on where an element lies in its vector. */
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(RW_NO_CLONES)
#if __GNUC__ >= 12
#define RW_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define RW_CLONES __attribute__((target_clones("fma", "default")))
#endif
#else
#define RW_CLONES
#endif

/* Prototypes of this build, from the list. */
#define RW_KERNEL(name, args) void RW_CPU_NAME(name)(const args *a, const rw_exec *ex);
#define RW_QUERY(name, args)  int64_t RW_CPU_NAME(name)(const args *a, const rw_exec *ex);
#include "kernels/ops.def"
#undef RW_KERNEL
#undef RW_QUERY

/* The rows or items [*first, *last) of part i of n, contiguous, sizes differing by at most one. */
static inline void rw_split(int64_t total, int64_t n, int64_t i, int64_t *first, int64_t *last) {
    *first = total * i / n;
    *last = total * (i + 1) / n;
}

#endif
