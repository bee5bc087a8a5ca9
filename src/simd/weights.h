/* Packed weights: [out][in] -> [out / TILE_LANES][in][TILE_LANES], transposed; the last panel is narrower.  Outputs
 * beyond the last are zeros. */
#ifndef MHA_SIMD_WEIGHTS_H
#define MHA_SIMD_WEIGHTS_H

static size_t K(packed_weight_bytes)(int64_t out, int64_t in, mha_dtype dtype) {
    return (size_t)(round_up(out, V_LANES) * in * mha_dtype_bytes(dtype));
}

/* Lanes of the weight panel that starts at output o. */
V_INLINE int64_t panel_lanes(int64_t o, int64_t out) {
    const int64_t left = round_up(out, V_LANES) - o;
    return left < TILE_LANES ? left : TILE_LANES;
}

V_INLINE void pack_weight_panels(const void *weight, mha_dtype dtype, int64_t stride, int64_t out, int64_t in,
                                 void *packed) {
    const void *rows[V_LANES];
    for (int64_t o = 0; o < out; o += V_LANES) {
        const int64_t panel = o / TILE_LANES * TILE_LANES, at = panel * in + (o - panel);
        point_at_rows(rows, weight, dtype, stride, o, out);
        pack_lanes(rows, dtype, false, in, 1, (char *)packed + at * mha_dtype_bytes(dtype), dtype,
                   panel_lanes(panel, out));
    }
}

static void K(pack_weights)(const void *weight, mha_dtype dtype, int64_t stride, int64_t out, int64_t in,
                            void *packed) {
    V_WITH_DTYPE(dtype, pack_weight_panels(weight, T, stride, out, in, packed));
}

#endif
