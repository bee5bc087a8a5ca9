/* Products by AMX of up to 32 rows, a column of tiles at a time:
 *
 *     C [rows / 16][16 rows][16] (+)= A [rows / 16][steps][16 rows][16 units]  B [steps][16 units][16]
 *
 * Of operands in two parts, three products are summed: the fourth, of what rounding left of both, is at most 2^-16 of
 * the first.  Step by step, so that sums do not depend on how many steps are multiplied at a time.
 * A and B are in tiles of 1 KiB: strides of kilobytes would share few sets of the first-level cache.  Registers: columns
 * take tiles 0, 1 and 2, 3 in turn, so that one is stored while the next is summed (a store takes as long as a product,
 * and only products of other tiles hide it); 4 and 5 are of A, 6 of B. */
#ifndef MHA_AMX_COLUMNS_H
#define MHA_AMX_COLUMNS_H

enum { TILE_BYTES = 64, TILE_FLOATS = 16, TILE_ROWS = 16, TILE = TILE_ROWS * TILE_FLOATS };

typedef struct columns {
    const float *a, *b;
    int64_t a_second, b_step, b_next; /* from the first 16 rows to the others; to the next step; to the next column */
    int64_t steps;
    int parts;
    int64_t a_part, b_part; /* from a part to the next */
    float *c;
    int64_t c_second, c_row_bytes, c_next;
    bool add;            /* to what C holds */
    int64_t n;           /* columns, at least 2 */
    const float *last_b; /* B of the last column, the same for all steps; NULL: as for the others */
} columns;

#define COLUMN(name, first, second)                                                                                    \
    V_INLINE void name##_open(const columns *cols, int64_t j, int row_tiles) {                                         \
        const float *c = cols->c + j * cols->c_next;                                                                   \
        if (cols->add) tile_load(first, c, cols->c_row_bytes);                                                         \
        else tile_zero(first);                                                                                         \
        if (row_tiles > 1 && cols->add) tile_load(second, c + cols->c_second, cols->c_row_bytes);                      \
        if (row_tiles > 1 && !cols->add) tile_zero(second);                                                            \
    }                                                                                                                  \
    V_INLINE void name##_store(const columns *cols, int64_t j, int row_tiles) {                                        \
        float *c = cols->c + j * cols->c_next;                                                                         \
        tile_store(first, c, cols->c_row_bytes);                                                                       \
        if (row_tiles > 1) tile_store(second, c + cols->c_second, cols->c_row_bytes);                                  \
    }

COLUMN(even, 0, 1)
COLUMN(odd, 2, 3)

#define SUM(name, other, first, second)                                                                                \
    V_INLINE void name##_sum(const columns *cols, int64_t j, int row_tiles) {                                          \
        const bool same = cols->last_b != NULL && j == cols->n - 1;                                                    \
        const float *b = same ? cols->last_b : cols->b + j * cols->b_next;                                             \
        for (int64_t step = 0; step < cols->steps; step++, b += same ? 0 : cols->b_step) {                             \
            for (int i = 0; i < cols->parts; i++) {                                                                    \
                const float *a = cols->a + step * TILE + i * cols->a_part;                                             \
                tile_load(4, a, TILE_BYTES);                                                                           \
                if (row_tiles > 1) tile_load(5, a + cols->a_second, TILE_BYTES);                                       \
                for (int k = 0; i + k < cols->parts && !(same && k > 0); k++) {                                        \
                    tile_load_once(6, b + k * cols->b_part, TILE_BYTES);                                               \
                    tile_dot(first, 4, 6);                                                                             \
                    if (row_tiles > 1) tile_dot(second, 5, 6);                                                         \
                }                                                                                                      \
            }                                                                                                          \
            if (step != (cols->steps - 1) / 2) continue;                                                               \
            if (j > 0) other##_store(cols, j - 1, row_tiles);                                                          \
            if (j + 1 < cols->n) other##_open(cols, j + 1, row_tiles);                                                 \
        }                                                                                                              \
    }

SUM(even, odd, 0, 1)
SUM(odd, even, 2, 3)

V_INLINE void multiply_columns(const columns *cols, int row_tiles, mha_ahead *ahead) {
    tile_fence();
    even_open(cols, 0, row_tiles);
    for (int64_t j = 0; j < cols->n; j += 2) {
        if (ahead != NULL) mha_ahead_step(ahead);
        even_sum(cols, j, row_tiles);
        if (j + 1 < cols->n) odd_sum(cols, j + 1, row_tiles);
    }
    if (cols->n % 2 == 0) odd_store(cols, cols->n - 1, row_tiles);
    else even_store(cols, cols->n - 1, row_tiles);
    tile_fence();
}

#endif
