/* C [32][lanes] += A [32][32] B [32][lanes], lanes: 16 or 32.  Tiles 0 to 3 are the sums, 4 and 5 of A, 6 and 7 of B:
 * each is loaded once for two products. */
#ifndef MHA_AMX_SUMS_H
#define MHA_AMX_SUMS_H

enum { TILE_BYTES = 64, TILE_FLOATS = 16 };

V_INLINE void sums_start(void) {
    tile_fence();
    tile_zero(0);
    tile_zero(1);
    tile_zero(2);
    tile_zero(3);
}

/* A's rows are row_bytes apart, B's pairs of rows follow each other. */
V_INLINE void sums_add(const void *a, int64_t row_bytes, const float *b, int vectors) {
    const int64_t lane_bytes = vectors * TILE_BYTES;
    tile_load(4, a, row_bytes);
    tile_load(6, b, lane_bytes);
    tile_dot(0, 4, 6);
    tile_load(5, (const char *)a + 16 * row_bytes, row_bytes);
    tile_dot(2, 5, 6);
    if (vectors == 1) return;
    tile_load(7, b + TILE_FLOATS, lane_bytes);
    tile_dot(1, 4, 7);
    tile_dot(3, 5, 7);
}

V_INLINE void sums_store(float *c, int vectors) {
    const int64_t lane_bytes = vectors * TILE_BYTES;
    float *second = c + 16 * vectors * TILE_FLOATS; /* half of the rows */
    tile_store(0, c, lane_bytes);
    tile_store(2, second, lane_bytes);
    if (vectors > 1) {
        tile_store(1, c + TILE_FLOATS, lane_bytes);
        tile_store(3, second + TILE_FLOATS, lane_bytes);
    }
    tile_fence();
}

#endif
