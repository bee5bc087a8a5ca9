/* The one matrix product of this library:
 *
 *     C[i][lane] = sum over k of A[k][i] B[k][lane]        i < rows <= PANEL, lane < vectors * V_LANES, k < n in units
 *
 *     A [n][PANEL]       broadcast                      K and V panels, rows of X: packed, or where they lie
 *     B [n][b_stride]    in vectors                     Q^T, P^T; weights, of any dtype
 *     C                  in registers                   S^T, O^T, Y
 *
 * Every element is summed by one chain of FMA in the order of k, so its bits do not depend on the shape of the tile,
 * nor on where A lies. */
#ifndef MHA_SIMD_FMA_TILE_H
#define MHA_SIMD_FMA_TILE_H

/* A[k][i] is at row[i] + k * step; or packed, at row[0] + k * PANEL + i. */
typedef struct fma_rows {
    bool packed;
    const float *row[PANEL];
    int64_t step;
} fma_rows;

V_INLINE fma_rows packed_panel(const float *panel) { return (fma_rows){.packed = true, .row = {panel}}; }

#if TERM == 1
/* A[k][i] * b + c for an i that is constant after unrolling. */
V_INLINE vf fma_row(const fma_rows *a, int64_t k, int i, vf b, vf c) {
    if (a->packed) return va_dot(va_load(a->row[0] + k * PANEL), i, b, c);
    return v_dot(v_set1(a->row[i][k * a->step]), b, c);
}

/* Adds the products of unit k. */
V_INLINE void fma_term(int rows, int vectors, int64_t k, const fma_rows *a, const void *b, mha_dtype dtype,
                       int64_t b_stride, vf c[PANEL][TILE_VECTORS]) {
    vf b_k[TILE_VECTORS];
    V_UNROLL
    for (int v = 0; v < vectors; v++) b_k[v] = load_elements(mha_element(b, k * b_stride + v * V_LANES, dtype), dtype);
    V_UNROLL
    for (int i = 0; i < rows; i++) {
        V_UNROLL
        for (int v = 0; v < vectors; v++) c[i][v] = fma_row(a, k, i, b_k[v], c[i][v]);
    }
}

V_INLINE void fma_finish(int rows, int vectors, vf c[PANEL][TILE_VECTORS]) { (void)rows, (void)vectors, (void)c; }
#else
/* Adds the products of units k and k + 1 of packed rows, or of rows with step 1: two rows by two lanes an instruction.
 * Until fma_finish, c[i] and c[i + 1] of even i hold rows i and i + 1 of the first and of the second half of each
 * vector's lanes. */
V_INLINE void fma_term(int rows, int vectors, int64_t k, const fma_rows *a, const void *b, mha_dtype dtype,
                       int64_t b_stride, vf c[PANEL][TILE_VECTORS]) {
    (void)dtype; /* units */
    vf b_k[TERM][TILE_VECTORS];
    V_UNROLL
    for (int half = 0; half < TERM; half++) {
        V_UNROLL
        for (int v = 0; v < vectors; v++) b_k[half][v] = v_load((const float *)b + (k + half) * b_stride + v * V_LANES);
    }
    V_UNROLL
    for (int i = 0; i < rows; i += TERM) {
        const int64_t at = (k + i % V_LANES / TERM) * PANEL + i / V_LANES * V_LANES;
        const vf a_k = a->packed ? v_load(a->row[0] + at) : v_load_halves(a->row[i] + k, a->row[i + 1] + k);
        V_UNROLL
        for (int half = 0; half < TERM; half++) {
            V_UNROLL
            for (int v = 0; v < vectors; v++) c[i + half][v] = v_dot_rows(a_k, b_k[half][v], c[i + half][v]);
        }
    }
}

V_INLINE void fma_finish(int rows, int vectors, vf c[PANEL][TILE_VECTORS]) {
    V_UNROLL
    for (int i = 0; i < rows; i += TERM) {
        V_UNROLL
        for (int v = 0; v < vectors; v++) v_swap_halves(&c[i][v], &c[i + 1][v]);
    }
}
#endif

V_INLINE void fma_start(int rows, int vectors, vf c[PANEL][TILE_VECTORS]) {
    V_UNROLL
    for (int i = 0; i < round_up(rows, TERM); i++) {
        V_UNROLL
        for (int v = 0; v < vectors; v++) c[i][v] = v_zero();
    }
}

V_INLINE void fma_tile(int rows, int vectors, int64_t n, const fma_rows *a, const float *b, int64_t b_stride,
                       vf c[PANEL][TILE_VECTORS]) {
    fma_start(rows, vectors, c);
    for (int64_t k = 0; k < n; k += TERM) fma_term(rows, vectors, k, a, b, MHA_F32, b_stride, c);
    fma_finish(rows, vectors, c);
}

#endif
