/* A layer's weights, packed for one instruction set. */
#ifndef MHA_LAYER_H
#define MHA_LAYER_H

#include "context.h"

enum { MHA_WQ, MHA_WK, MHA_WV, MHA_WO, MHA_WEIGHTS };

struct mha_layer {
    const mha_context *context;
    mha_layer_desc sizes; /* without weights */
    const void *packed;   /* header, weights and biases; within the layer's own memory unless borrowed */
    size_t packed_bytes;
    mha_gemm weight[MHA_WEIGHTS]; /* packed, bias, in, out, level, parts (of X at most); point into it */
    const mha_gemm_kernels *kernels[MHA_WEIGHTS];
};

#endif
