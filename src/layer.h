/* A layer's weights, packed for one instruction set. */
#ifndef MHA_LAYER_H
#define MHA_LAYER_H

#include "context.h"

enum { MHA_WQ, MHA_WK, MHA_WV, MHA_WO, MHA_WEIGHTS };

struct mha_layer {
    const mha_context *context;
    mha_layer_desc sizes;         /* without weights */
    mha_gemm weight[MHA_WEIGHTS]; /* packed, bias, in, out */
};

#endif
