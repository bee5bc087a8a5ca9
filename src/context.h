/* A context: the kernels to use. */
#ifndef MHA_CONTEXT_H
#define MHA_CONTEXT_H

#include "arguments.h"
#include "kernel.h"

struct mha_context {
    const mha_kernels *kernels;
    int exp; /* index into pairs of kernels: 0 SLEEF, 1 fused */
    mha_allocator allocator;
};

/* The row of kernels.inc by this name, or by MHA_ISA, or the best this CPU runs (dispatch.c). */
mha_status mha_choose_kernels(const char *isa, const mha_kernels **kernels, mha_message message);

#endif
