/* What happens to a tile's scores, s [BLOCK_KEYS][lanes], between its two products. */
#ifndef MHA_SIMD_SOFTMAX_H
#define MHA_SIMD_SOFTMAX_H

/* Softcap, and the largest score anew. */
V_INLINE void cap_scores(const mha_softmax *softmax, const mha_tile *tile, int vectors, float *s,
                         vf max[TILE_VECTORS]) {
    const int lanes = vectors * V_LANES;
    const vf cap = v_set1(softmax->cap);
    V_UNROLL
    for (int v = 0; v < vectors; v++) max[v] = v_set1(-INFINITY);
    for (int32_t k = tile->begin; k < tile->end; k++) {
        V_UNROLL
        for (int v = 0; v < vectors; v++) {
            float *at = s + k * lanes + v * V_LANES;
            const vf x = v_tanh_sleef(v_mul(v_load(at), cap));
            v_store(at, x);
            max[v] = v_max(x, max[v]);
        }
    }
}

/* Bias and exclusion, and the largest score anew. */
V_INLINE void modify_scores(const mha_softmax *softmax, const mha_tile *tile, int vectors, float *s,
                            vf max[TILE_VECTORS]) {
    const int lanes = vectors * V_LANES;
    const vf bias_scale = v_set1(softmax->bias_scale), lowest = v_set1(-INFINITY);
    V_UNROLL
    for (int v = 0; v < vectors; v++) max[v] = lowest;
    for (int32_t k = tile->begin; k < tile->end; k++) {
        const uint64_t excluded = tile->excluded != NULL ? tile->excluded[k] : 0;
        V_UNROLL
        for (int v = 0; v < vectors; v++) {
            float *at = s + k * lanes + v * V_LANES;
            vf x = v_load(at);
            if (tile->bias != NULL) x = v_fma(x, bias_scale, v_load(tile->bias + (at - s)));
            x = v_blend(v_mask(excluded >> (v * V_LANES)), x, lowest);
            v_store(at, x);
            max[v] = v_max(x, max[v]);
        }
    }
}

/* -inf where products reach beyond [begin, end): they take KEY_STEP keys at a time. */
V_INLINE void pad_scores(const mha_tile *tile, int vectors, float *s) {
    const int lanes = vectors * V_LANES;
    const int32_t first = tile->begin / KEY_STEP * KEY_STEP, end = (int32_t)round_up(tile->end, KEY_STEP);
    for (int32_t i = first * lanes; i < tile->begin * lanes; i += V_LANES) v_store(s + i, v_set1(-INFINITY));
    for (int32_t i = tile->end * lanes; i < end * lanes; i += V_LANES) v_store(s + i, v_set1(-INFINITY));
}

/* P = exp((S - max) scale), in units, in the place of S; updates max and sum; alpha is what the old sum and output
 * shrink by. */
V_INLINE void online_softmax(const mha_softmax *softmax, mha_tile *tile, int vectors, bool fused, float *s,
                             const vf block_max[TILE_VECTORS], vf alpha[TILE_VECTORS]) {
    const int lanes = vectors * V_LANES;
    vf reference[TILE_VECTORS], sum[TILE_VECTORS];
    V_UNROLL
    for (int v = 0; v < vectors; v++) {
        const vf old = v_load(tile->max + v * V_LANES), max = v_max(block_max[v], old);
        reference[v] = finite_max(max);
        v_store(tile->max + v * V_LANES, max);
        alpha[v] = softmax_exp(v_sub(old, reference[v]), softmax, fused);
        sum[v] = v_zero();
    }
    pad_scores(tile, vectors, s);
    for (int32_t k = tile->begin / KEY_STEP * KEY_STEP; k < round_up(tile->end, KEY_STEP); k += KEY_STEP) {
        V_UNROLL
        for (int v = 0; v < vectors; v++) {
            const float *at = s + k * lanes + v * V_LANES;
            float *to = s + k / UNIT * lanes + v * V_LANES;
            vf weight[KEY_STEP];
            V_UNROLL
            for (int i = 0; i < KEY_STEP; i++)
                weight[i] = softmax_exp(v_sub(v_load(at + i * lanes), reference[v]), softmax, fused);
            if (UNIT == 1) {
                v_store(to, weight[0]);
                sum[v] = v_add(sum[v], weight[0]);
                continue;
            }
            vf p[TERM];
            V_UNROLL
            for (int t = 0; t < TERM; t++) {
                p[t] = v_pair(weight[UNIT * t], weight[UNIT * t + UNIT - 1]);
                sum[v] = v_dot(p[t], v_set_pairs(ONES), sum[v]); /* of what multiplies V */
            }
            v_interleave(p);
            V_UNROLL
            for (int t = 0; t < TERM; t++) v_store(to + t * lanes, p[t]);
        }
    }
    V_UNROLL
    for (int v = 0; v < vectors; v++) {
        float *at = tile->sum + v * V_LANES;
        v_store(at, v_fma(v_load(at), alpha[v], sum[v]));
    }
}

#endif
