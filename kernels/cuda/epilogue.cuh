/* What comes behind a product (kernels/matmul.h), in float. */
#ifndef RW_KERNELS_CUDA_EPILOGUE_CUH
#define RW_KERNELS_CUDA_EPILOGUE_CUH

#include "kernels/cuda/common.cuh"

/* x: the product; act: only slopes read it. expf, not __expf: right for every x. */
static __device__ __forceinline__ float rw_epilogue_of(rw_epilogue f, float x, float act) {
    switch (f) {
    case RW_EPILOGUE_RELU_SQ:
        return x < 0 ? 0 : x * x; /* this way round NaN passes */
    case RW_EPILOGUE_TANH:
        return tanhf(x);
    case RW_EPILOGUE_SIGMOID:
        return 1 / (1 + expf(-x));
    case RW_EPILOGUE_D_RELU_SQ:
        return x * 2 * sqrtf(act);
    case RW_EPILOGUE_D_TANH:
        return x * (1 - act * act);
    case RW_EPILOGUE_D_SIGMOID:
        return x * act * (1 - act);
    default:
        return x;
    }
}

static inline bool rw_epilogue_reads_act(rw_epilogue f) {
    return f >= RW_EPILOGUE_D_RELU_SQ;
}

#endif
