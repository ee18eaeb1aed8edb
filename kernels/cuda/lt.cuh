/* cuBLASLt, opened by name when a GPU is: nothing is linked, so the program starts where the library is missing. */
#ifndef RW_KERNELS_CUDA_LT_CUH
#define RW_KERNELS_CUDA_LT_CUH

#include "core/base/error.h"

#include <cublasLt.h>

#define RW_LT_FUNCTIONS(F)                                                                                             \
    F(Create)                                                                                                          \
    F(Destroy)                                                                                                         \
    F(Matmul)                                                                                                          \
    F(MatmulDescCreate)                                                                                                \
    F(MatmulDescDestroy)                                                                                               \
    F(MatmulDescSetAttribute)                                                                                          \
    F(MatrixLayoutCreate)                                                                                              \
    F(MatrixLayoutDestroy)                                                                                             \
    F(MatrixLayoutSetAttribute)                                                                                        \
    F(MatmulPreferenceCreate)                                                                                          \
    F(MatmulPreferenceDestroy)                                                                                         \
    F(MatmulPreferenceSetAttribute)                                                                                    \
    F(MatmulAlgoGetHeuristic)                                                                                          \
    F(MatmulAlgoCheck)                                                                                                 \
    F(MatmulAlgoConfigGetAttribute)                                                                                    \
    F(GetVersion)                                                                                                      \
    F(GetStatusString)

struct rw_lt {
#define RW_LT_MEMBER(name) decltype(&cublasLt##name) name;
    RW_LT_FUNCTIONS(RW_LT_MEMBER)
#undef RW_LT_MEMBER
    int version;    /* 130100: 13.1.0 */
    char path[512]; /* the file that was opened */
};

/* Looks for the library once per process; NULL and E_DEVICE when there is none that this program and this driver can
 * use. `driver`: the newest CUDA that the driver knows (13000: 13.0). */
const rw_lt *rw_lt_open(int driver, rw_error *err);

#endif
