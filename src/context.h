/* A context: the kernels to use. */
#ifndef MHA_CONTEXT_H
#define MHA_CONTEXT_H

#include "arguments.h"
#include "kernel.h"

/* The kernels of a context. */
typedef struct mha_choice {
    const char *isa;
    const mha_kernels *kernels;
    const mha_bf16_kernels *bf16; /* NULL: none */
} mha_choice;

struct mha_context {
    mha_choice choice;
    int exp; /* index into pairs of kernels: 0 SLEEF, 1 fused */
    mha_precision precision;
    mha_allocator allocator;
};

/* By this name, or by MHA_ISA, or the best this CPU runs (dispatch.c). */
mha_status mha_choose_kernels(const char *isa, mha_choice *choice, mha_message message);

#endif
