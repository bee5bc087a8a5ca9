/* Up to SHORT_ROWS rows, from DRAM up to PANEL, are bound by reading W: they take X where it lies if that can be
 * multiplied, and fetch all slices of the next step meanwhile. */
#ifndef MHA_SIMD_GEMM_FEW_H
#define MHA_SIMD_GEMM_FEW_H

/* Fetches a step's whole panels; a narrow last one is not worth it. */
static weight_fetch fetch_from(const gemm_block *block, const gemm_slices *s) {
    const int panels = (int)((round_up(s->out1, V_LANES) - s->out0) / TILE_LANES);
    weight_fetch f = {.places = 0};
    if (panels == 0 || block->gemm->level == MHA_FAST_CACHE) return f;
    const int cuts = FETCH_PLACES / panels;
    f.places = panels * cuts;
    f.terms = s->depth / cuts; /* rounded down: no place leaves the weights */
    f.term_bytes = TILE_LANES * mha_dtype_bytes(block->w_dtype);
    for (int i = 0; i < f.places; i++)
        f.place[i] = slice_of(block, s->out0 + i / cuts * TILE_LANES, s->k + i % cuts * f.terms);
    return f;
}

V_INLINE void copy_part(const void *x, mha_dtype dtype, int part, int64_t elements, float *units) {
    for (int64_t i = 0; i < elements; i += UNIT * V_LANES) {
        const void *p = mha_element(x, i, dtype);
        const int64_t left = elements - i;
        const vf u = UNIT == 1 ? load_elements_n(p, left, dtype) : load_part(p, left, dtype, part, 1);
        v_store_n(units + i / UNIT, u, term_units(left));
    }
}

/* The inputs of step s of row i, [parts][depth]. */
static const float *row_units(const gemm_block *block, const gemm_slices *s, int i) {
    const mha_gemm *gemm = block->gemm;
    const void *row = x_at(gemm, block->row0 + i, s->k);
    if (UNIT == 1 && gemm->x_dtype == MHA_F32) return row;
    float *units = block->x + i * GEMM_DEPTH;
    for (int part = 0; part < block->x_parts; part++)
        V_WITH_DTYPE(gemm->x_dtype, copy_part(row, T, part, elements_of(gemm, s), units + part * s->depth));
    return units;
}

static void gemm_few(const gemm_block *block, const gemm_slices *s, const gemm_slices *next) {
    weight_fetch weights = fetch_from(block, next);
    const int valid = (int)(block->row1 - block->row0);
    fma_rows x = {.packed = false, .step = 1};
    for (int i = 0; i < PANEL; i++) /* a row beyond the end is the last one again */
        x.row[i] = i < valid ? row_units(block, s, i) : x.row[valid - 1];
    for (int64_t out = s->out0; out < s->out1; out += TILE_LANES) {
        const gemm_tile tile = tile_of(block, s, out);
        V_WITH_DTYPE(unit_dtype(block->gemm->w_dtype), gemm_product(&tile, x, &weights, valid, T));
    }
}

static void K(gemm)(const mha_gemm *gemm, int64_t row0, int64_t row1, int64_t out0, int64_t out1, float *scratch) {
    const bool few = row1 - row0 <= (gemm->level == MHA_DRAM ? PANEL : SHORT_ROWS);
    const gemm_block block = gemm_block_of(gemm, row0, row1, few, scratch);
    if (!few) {
        gemm_many(&block, out0, out1);
        return;
    }
    for (gemm_slices s = slices_at(&block, out0, out1, 0); s.out0 < out1;) {
        const gemm_slices next = slices_after(&block, &s, out1);
        gemm_few(&block, &s, &next);
        s = next;
    }
}

#endif
