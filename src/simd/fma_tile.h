/* The one matrix product of this library:
 *
 *     C[i][lane] = sum over k of A[k][i] B[k][lane]        i < rows <= PANEL, lane < vectors * V_LANES
 *
 *     A [n][PANEL]       packed, broadcast              K and V panels, rows of X
 *     B [n][b_stride]    in vectors                     Q^T, P^T, weights
 *     C                  in registers                   S^T, O^T, Y
 *
 * Every element is summed by one chain of FMA in the order of k, so its bits do not depend on the shape of the tile. */
#ifndef MHA_SIMD_FMA_TILE_H
#define MHA_SIMD_FMA_TILE_H

V_INLINE void fma_tile(int rows, int vectors, int64_t n, const float *a, const float *b, int64_t b_stride,
                       vf c[PANEL][TILE_VECTORS]) {
    V_UNROLL
    for (int i = 0; i < rows; i++) {
        V_UNROLL
        for (int v = 0; v < vectors; v++) c[i][v] = v_zero();
    }
    for (int64_t k = 0; k < n; k++) {
        const va a_k = va_load(a + k * PANEL);
        vf b_k[TILE_VECTORS];
        V_UNROLL
        for (int v = 0; v < vectors; v++) b_k[v] = v_load(b + k * b_stride + v * V_LANES);
        V_UNROLL
        for (int i = 0; i < rows; i++) {
            V_UNROLL
            for (int v = 0; v < vectors; v++) c[i][v] = va_fma(a_k, i, b_k[v], c[i][v]);
        }
    }
}

#endif
