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

/* Parts of bf16 that the precision lets an operand have. */
static inline int mha_most_parts_at(mha_precision precision) {
    return precision == MHA_PRECISION_MEDIUM ? 1 : precision == MHA_PRECISION_HIGH ? 2 : mha_bf16_parts(MHA_F32);
}

/* In how many parts of bf16 operands that have so many are multiplied; 0: in f32. */
static inline int mha_multiplied_parts(const mha_context *context, int parts) {
    const mha_bf16_kernels *bf16 = context->choice.bf16;
    const int most = mha_most_parts_at(context->precision), n = parts < most ? parts : most;
    return bf16 != NULL && (n == 1 || (n == 2 && bf16->split.max_rows > 0)) ? n : 0;
}

/* By this name, or by MHA_ISA, or the best this CPU runs (dispatch.c). */
mha_status mha_choose_kernels(const char *isa, mha_choice *choice, mha_message message);

#endif
