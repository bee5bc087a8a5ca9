#include "matrix.h"
#include "half.h"

#include <stdlib.h>

guard matrix_make(int64_t rows, int64_t cols, int64_t gap, mha_dtype dtype, double factor, guard_side side, rng *r) {
    if (rows == 0) return guard_make(0, side, 0);
    guard g = guard_make((size_t)((rows - 1) * (cols + gap) + cols) * element_bytes(dtype), side, 0);
    for (int64_t i = 0; i < rows; i++)
        for (int64_t k = 0; k < cols; k++)
            element_set(g.data, dtype, i * (cols + gap) + k, factor * (double)rng_normal(r));
    guard_remember(&g);
    return g;
}

void matrix_fill(guard *memory, mha_dtype dtype, double x) {
    for (size_t i = 0; i < memory->bytes / element_bytes(dtype); i++) element_set(memory->data, dtype, (int64_t)i, x);
    guard_remember(memory);
}

float *matrix_take(guard *memory, mha_dtype dtype, int64_t items, int64_t rows, int64_t cols, int64_t item_stride,
                   int64_t stride) {
    float *dense = malloc((size_t)(items * rows * cols) * sizeof(float) + 1);
    for (int64_t i = 0; i < items * rows * cols; i++) {
        const int64_t at = i / (rows * cols) * item_stride + i / cols % rows * stride + i % cols;
        dense[i] = (float)element_value(memory->data, dtype, at);
        guard_forgive(memory, memory->data + at * (int64_t)element_bytes(dtype), element_bytes(dtype));
    }
    return dense;
}
