/* Packed weights: [out][in] -> [out / TILE_LANES][in][TILE_LANES], transposed; the last panel is narrower.  `in` counts
 * units: elements of the weights' dtype, or pairs of bf16, whole steps of them, those of a term interleaved (unit_at).
 * What is beyond the last is zeros.
 * Each part is packed so, one behind the other. */
#ifndef MHA_SIMD_WEIGHTS_H
#define MHA_SIMD_WEIGHTS_H

/* A pair of bf16 is as wide as a float. */
V_INLINE mha_dtype unit_dtype(mha_dtype dtype) { return UNIT == 1 ? dtype : MHA_F32; }

/* Of a part, in units. */
V_INLINE int64_t weight_part(int64_t out, int64_t in) { return round_up(out, V_LANES) * step_units(in); }

static size_t K(packed_weight_bytes)(int64_t out, int64_t in, mha_dtype dtype, int parts) {
    return (size_t)((UNIT == 1 ? 1 : parts) * weight_part(out, in) * mha_dtype_bytes(unit_dtype(dtype)));
}

/* Lanes of the weight panel that starts at output o. */
V_INLINE int64_t panel_lanes(int64_t o, int64_t out) {
    const int64_t left = round_up(out, V_LANES) - o;
    return left < TILE_LANES ? left : TILE_LANES;
}

V_INLINE void pack_weight_panels(const void *weight, mha_dtype dtype, int part, int64_t stride, int64_t out, int64_t in,
                                 void *packed) {
    const void *rows[V_LANES];
    const mha_dtype to = unit_dtype(dtype);
    const int64_t units = step_units(in);
    packed = (char *)packed + part * weight_part(out, in) * mha_dtype_bytes(to);
    if (HEAD_STEP > TERM) memset(packed, 0, K(packed_weight_bytes)(out, in, dtype, 1));
    for (int64_t o = 0; o < out; o += V_LANES) {
        const int64_t panel = o / TILE_LANES * TILE_LANES, at = panel * units + (o - panel);
        point_at_rows(rows, weight, dtype, stride, o, out);
        pack_lanes(rows, dtype, UNIT == 1 ? ELEMENTS : part, in, 1, (char *)packed + at * mha_dtype_bytes(to), to,
                   panel_lanes(panel, out));
    }
}

static void K(pack_weights)(const void *weight, mha_dtype dtype, int parts, int64_t stride, int64_t out, int64_t in,
                            void *packed) {
    for (int part = 0; part < (UNIT == 1 ? 1 : parts); part++)
        V_WITH_DTYPE(dtype, pack_weight_panels(weight, T, part, stride, out, in, packed));
}

/* Of a row of kernels.inc, whose GEMM defines GEMM_MAX_ROWS, GEMM_MAX_PANELS, GEMM_PANEL_ROWS, GEMM_SCRATCH_FLOATS
 * and K(gemm). */
#define GEMM                                                                                                           \
    {.panel = TILE_LANES,                                                                                              \
     .max_rows = GEMM_MAX_ROWS,                                                                                        \
     .max_panels = GEMM_MAX_PANELS,                                                                                    \
     .panel_rows = GEMM_PANEL_ROWS,                                                                                    \
     .packed_bytes = K(packed_weight_bytes),                                                                           \
     .pack = K(pack_weights),                                                                                          \
     .scratch_floats = GEMM_SCRATCH_FLOATS,                                                                            \
     .multiply = K(gemm)}

#endif
