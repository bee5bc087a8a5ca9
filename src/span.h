/* Where an operand lies in memory: overflow, distinctness and overlap of strided tensors. */
#ifndef MHA_SPAN_H
#define MHA_SPAN_H

#include "arguments.h"

enum { MHA_SPAN_DIMS = 4 };

typedef struct mha_span {
    const char *name;    /* of the field, for messages */
    const char *pointer; /* what follows the name where data is meant: ".data", or nothing */
    const void *data;
    int64_t element_bytes;
    int64_t extent[MHA_SPAN_DIMS], stride[MHA_SPAN_DIMS]; /* strides in elements */
    bool empty;
    uintptr_t first, end; /* the bytes it touches */
} mha_span;

/* Fills empty, first and end from the rest.  Refuses missing or misaligned data and strides that leave the address
 * space. */
mha_status mha_span_resolve(mha_span *span, mha_message message);

/* Refuses outputs, the first n_outputs of n spans, two of whose elements may share memory, or that may share memory
 * with another span. */
mha_status mha_span_check_outputs(const mha_span *spans, int n_outputs, int n, mha_message message);

#endif
