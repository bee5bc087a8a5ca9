/* Integer helpers. */
#ifndef MHA_ARITH_H
#define MHA_ARITH_H

#include "kernel.h"

static inline int64_t mha_min(int64_t a, int64_t b) { return a < b ? a : b; }

static inline int64_t mha_max(int64_t a, int64_t b) { return a > b ? a : b; }

static inline int64_t mha_ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

static inline size_t mha_align_up(size_t bytes) { return (bytes + MHA_ALIGN - 1) / MHA_ALIGN * MHA_ALIGN; }

/* The first element of a row. */
static inline void *mha_row_of(const mha_tensor *tensor, int64_t batch, int64_t head, int64_t token) {
    const int64_t at = batch * tensor->stride[0] + head * tensor->stride[1] + token * tensor->stride[2];
    return (char *)tensor->data + at * mha_dtype_bytes(tensor->dtype);
}

/* A workspace may have any alignment; its size has room for this. */
static inline char *mha_align_pointer(void *memory) {
    return (char *)memory + (mha_align_up((uintptr_t)memory) - (uintptr_t)memory);
}

#endif
