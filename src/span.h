/* Where an operand lies in memory: overflow, distinctness and overlap of strided tensors. */
#ifndef MHA_SPAN_H
#define MHA_SPAN_H

#include "context.h"

enum { MHA_SPAN_DIMS = 4 };

typedef struct mha_span {
    const char *name; /* of the field, for messages */
    const void *data;
    int64_t element_bytes;
    int64_t extent[MHA_SPAN_DIMS], stride[MHA_SPAN_DIMS]; /* strides in elements */
    bool empty;
    uintptr_t first, end; /* the bytes it touches */
} mha_span;

/* Fills empty, first and end from the rest.  Refuses missing or misaligned data and strides that leave the address
 * space. */
mha_status mha_span_resolve(mha_span *span, mha_message message);

/* The span of a mask or of the scores output, resolved; empty if there is none (check.c). */
mha_status mha_scores_span(const char *name, const mha_score_tensor *tensor, const mha_attention_args *args, bool mask,
                           mha_span *span, mha_message message);

/* Refuses an output two of whose elements may share memory. */
mha_status mha_span_check_distinct(const mha_span *span, mha_message message);

/* Refuses an output that may share memory with another operand. */
mha_status mha_span_check_apart(const mha_span *output, const mha_span *other, mha_message message);

#endif
