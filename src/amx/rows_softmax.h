/* From scores to weights in bf16, in 16-bit arithmetic.
 *
 * A word is a weight in logarithms: exponent field and fraction in fixed point, 7 and 9 bits, so that
 *
 *     word = round(512 log2(weight) + 127 * 512) + 2,   0 if that is less and 65535 if it is more
 *     weight = (word - CORRECTION[word / 8 % 64]) / 4   as the bits of a bf16, rounded down: half of 4 is in the word
 *
 * which takes a fraction f for 2^f - 1 but for the correction.  Largest relative error 2^-7.5, root mean square 1.08
 * times that of rounding to bf16 (tests/test_weights.c); sums add the rounded weights, so that most of it cancels.
 *
 * Weights are relative to a reference: a score of the row that no other exceeds by more than a factor of 2^8.  It has
 * the weight 2^-8; what exceeds it makes the reference rise.  So O is rarely rescaled, and after a row's first step its
 * maximum is not looked for: the largest word of all rows tells. */
#ifndef MHA_AMX_ROWS_SOFTMAX_H
#define MHA_AMX_ROWS_SOFTMAX_H

enum {
    MOST_OCTAVES_ABOVE = 8, /* of the reference */
    WORDS_PER_OCTAVE = 512,
    WORD_OF_MAX = (127 - MOST_OCTAVES_ABOVE) * WORDS_PER_OCTAVE + 2,
    MOST_WORD = 127 * WORDS_PER_OCTAVE + 2,
};

/* In FMA with references up to here a score's own rounding is as large. */
static const float MOST_OCTAVES = 0x1p20f;

/* 512 (f - (2^f - 1)) about the middle of each 64th, so that squares of relative errors are least. */
static const uint8_t CORRECTION[64] = {
    1,  4,  6,  8,  10, 12, 15, 16, 19, 20, 22, 24, 26, 28, 29, 31, 32, 33, 35, 36, 37, 38,
    39, 40, 41, 41, 42, 43, 43, 44, 44, 44, 44, 45, 45, 45, 44, 44, 44, 43, 43, 42, 42, 41,
    40, 39, 38, 37, 35, 34, 33, 31, 29, 27, 25, 23, 21, 19, 17, 14, 11, 9,  6,  3,
};

/* Constants of a call. */
typedef struct weigher {
    const mha_softmax *softmax;
    bool fused;
    int parts;
    vf slope;     /* words of a score */
    vf no_weight; /* a score so far below the reference has none in two parts */
} weigher;

V_INLINE weigher weigher_of(const mha_softmax *softmax, bool fused, int parts) {
    return (weigher){.softmax = softmax,
                     .fused = fused,
                     .parts = parts,
                     .slope = v_set1(softmax->exp_hi * WORDS_PER_OCTAVE),
                     .no_weight = v_set1((MOST_OCTAVES_ABOVE - 127) / softmax->exp_hi)};
}

/* Maxima of 16 rows, in lanes. */
V_INLINE vf row_maxima(const float *s, int keys) {
    vf r[16], t[8], u[4], w[2];
    V_UNROLL
    for (int i = 0; i < 16; i++) {
        r[i] = v_load(s + i * STEP_KEYS);
        V_UNROLL
        for (int k = V_LANES; k < keys; k += V_LANES) r[i] = v_max(v_load(s + i * STEP_KEYS + k), r[i]);
    }
    V_UNROLL
    for (int i = 0; i < 8; i++) /* rows i, i + 8 in halves */
        t[i] = v_max(_mm512_shuffle_f32x4(r[i], r[i + 8], 0x44), _mm512_shuffle_f32x4(r[i], r[i + 8], 0xee));
    V_UNROLL
    for (int i = 0; i < 4; i++) /* i, i + 8, i + 4, i + 12 in quarters */
        u[i] = v_max(_mm512_shuffle_f32x4(t[i], t[i + 4], 0x88), _mm512_shuffle_f32x4(t[i], t[i + 4], 0xdd));
    V_UNROLL
    for (int i = 0; i < 2; i++) w[i] = v_max(_mm512_unpacklo_ps(u[i], u[i + 2]), _mm512_unpackhi_ps(u[i], u[i + 2]));
    const vf x = v_max(_mm512_unpacklo_ps(w[0], w[1]), _mm512_unpackhi_ps(w[0], w[1]));
    return _mm512_shuffle_f32x4(x, x, 0xd8);
}

/* Where references are so large that their words would be too coarse or not finite, they are subtracted from scores
 * first; 0 elsewhere, and for rows that have seen no key. */
V_INLINE vf shifts(const weigher *w, vf reference) {
    const vf octaves = v_mul(_mm512_abs_ps(reference), v_set1(w->softmax->exp_hi));
    const vm large = _mm512_cmp_ps_mask(octaves, v_set1(MOST_OCTAVES), _CMP_GE_OQ);
    return v_blend(large & (vm)~v_equal(reference, v_set1(-INFINITY)), v_zero(), reference);
}

/* Words at a score, less its shift, of 0.  Rows that have seen no key have +inf: any score makes them rise. */
V_INLINE vf words_at_zero(const weigher *w, vf reference) {
    return v_fma(v_sub(shifts(w, reference), reference), w->slope, v_set1(WORD_OF_MAX));
}

V_INLINE bool uses_words(const weigher *w) { return w->fused && w->parts == 1; }

/* Of 16 rows, which ones' reference a step's largest score makes rise: by the very arithmetic that asks the tile whether
 * any does, so that a row does not depend on whether its neighbours ask. */
V_INLINE vm rising(const weigher *w, vf max, vf old, vf at_zero) {
    if (uses_words(w)) {
        const vf word = v_fma(v_sub(max, shifts(w, old)), w->slope, at_zero);
        return _mm512_cmp_ps_mask(word, v_set1(MOST_WORD + 0.5f), _CMP_GT_OQ);
    }
    const vf octaves = v_mul(v_sub(max, finite_max(old)), v_set1(w->softmax->exp_hi)), lowest = v_set1(-INFINITY);
    const vm first = v_equal(old, lowest) & (vm)~v_equal(max, lowest);
    return first | _mm512_cmp_ps_mask(octaves, v_set1(MOST_OCTAVES_ABOVE), _CMP_GT_OQ);
}

/* Raises references that the step's scores exceed by more than 2^8, and rescales those rows of O; at_zero [lanes] is
 * kept. */
static void raise_references(const weigher *w, mha_tile *tile, const float *s, int keys, int64_t tiles,
                             float *at_zero) {
    for (int32_t row = 0; row < tile->lanes; row += TILE_ROWS) {
        const vf max = keys > 32 ? row_maxima(s + row * STEP_KEYS, 64) : row_maxima(s + row * STEP_KEYS, 32);
        const vf old = v_load(tile->max + row);
        const vm rise = rising(w, max, old, v_load(at_zero + row));
        const vf reference = v_blend(rise, old, max);
        float alpha[TILE_ROWS];
        v_store(tile->max + row, reference);
        v_store(at_zero + row, words_at_zero(w, reference));
        v_store(alpha, softmax_exp(v_sub(old, finite_max(reference)), w->softmax, w->fused));
        const uint32_t seen = rise & ~(uint32_t)v_equal(old, v_set1(-INFINITY));
        for (uint32_t left = seen; left != 0; left &= left - 1) {
            const int i = __builtin_ctz(left);
            for (int64_t t = 0; t < tiles; t++) {
                float *o = row_at(tile->o, row + i, tiles, t);
                v_store(o, v_mul(v_load(o), v_set1(alpha[i])));
            }
        }
    }
}

V_INLINE __m512i corrections(__m512i eighths) {
    const __m512i table = _mm512_loadu_si512(CORRECTION);
#ifdef __AVX512VBMI__
    return _mm512_maskz_permutexvar_epi8(UINT64_C(0x5555555555555555), eighths, table);
#else /* emulated */
    uint16_t words[2 * V_LANES];
    (void)table;
    _mm512_storeu_si512(words, eighths);
    for (int i = 0; i < 2 * V_LANES; i++) words[i] = CORRECTION[words[i] % 64];
    return _mm512_loadu_si512(words);
#endif
}

/* A row's weights of the first 32 keys; those of the others are a tile further. */
V_INLINE float *weights_of_row(float *p, int row) { return row_at(p, row, BLOCK_KEYS / 32, 0); }

/* What the products that follow need, from the second-level cache: so many lines a row. */
typedef struct near_fetch {
    const float *from;
    int lines;
} near_fetch;

V_INLINE void fetch_near(near_fetch *fetch) {
    for (int line = 0; line < fetch->lines; line++, fetch->from += LINE) v_prefetch(fetch->from, 0);
}

/* Returns whether a word says that a reference must rise first: then the weights are to be computed again. */
V_INLINE bool weights_of_words(const weigher *w, const float *s, int rows, int keys, const float *at_zero,
                               near_fetch fetch, float *p) {
    __m512i most = _mm512_setzero_si512();
    for (int row = 0; row < rows; row++) {
        const vf zero = v_set1(at_zero[row]);
        float *to = weights_of_row(p, row);
        fetch_near(&fetch);
        V_UNROLL
        for (int k = 0; k < keys; k += 2 * V_LANES) {
            const float *at = s + row * STEP_KEYS + k;
            const __m512i low = _mm512_cvtps_epi32(v_fma(v_load(at), w->slope, zero)),
                          high = _mm512_cvtps_epi32(v_fma(v_load(at + V_LANES), w->slope, zero)),
                          words = _mm512_packus_epi32(low, high),
                          mended = _mm512_subs_epu16(words, corrections(_mm512_srli_epi16(words, 3)));
            most = _mm512_max_epu16(most, words);
            _mm512_storeu_si512(to + k / 32 * TILE, _mm512_srli_epi16(mended, 2));
        }
    }
    return _mm512_cmpgt_epu16_mask(most, _mm512_set1_epi16((short)MOST_WORD)) != 0;
}

/* Subtracts the shifts of rows that have one. */
static void shift_scores(const weigher *w, const mha_tile *tile, float *s, int keys) {
    float shift[ROWS];
    for (int32_t row = 0; row < tile->lanes; row += V_LANES) v_store(shift + row, shifts(w, v_load(tile->max + row)));
    for (int32_t row = 0; row < tile->lanes; row++)
        for (int k = 0; shift[row] != 0 && k < keys; k += V_LANES) {
            float *at = s + row * STEP_KEYS + k;
            v_store(at, v_sub(v_load(at), v_set1(shift[row])));
        }
}

/* The weights of 16 keys as integers: bf16 of x in the low halves; and what rounding left of it. */
V_INLINE __m512i rounded_half(vf *x) {
    const __m512i bits = _mm512_add_epi32(_mm512_castps_si512(*x), _mm512_set1_epi32(0x8000));
    *x = v_sub(*x, _mm512_castsi512_ps(_mm512_and_si512(bits, _mm512_set1_epi32((int)0xffff0000))));
    return _mm512_srli_epi32(bits, 16);
}

/* exp(x scale) WEIGHT_OF_MAX for two parts, which hold 16 bits of it.  As v_exp_u11 but for a term less, which leaves
 * 2^-22.5 (2^f = 1 + f q(f), q minimax for the relative error), what rounding scale * log2(e) took, 2^-24 of the
 * argument, and exponents that are 8 less.  x is clamped to where the exponent field is 0, and so the weight; from there
 * to half an octave above it is subnormal, which products take for 0. */
V_INLINE vf weight_of(vf x, const weigher *w) {
    const vf hi = v_set1(w->softmax->exp_hi), shift = v_set1(0x1.8p23f + 127 - MOST_OCTAVES_ABOVE);
    const vf bounded = v_at_least(x, w->no_weight);
    const vf t = v_fma(bounded, hi, shift);
    const vf f = v_fma(bounded, hi, v_sub(shift, t));
    vf p = v_set1(0x1.5bba18p-10f);
    p = v_fma(p, f, v_set1(0x1.3cea88p-7f));
    p = v_fma(p, f, v_set1(0x1.c6b752p-5f));
    p = v_fma(p, f, v_set1(0x1.ebf9bcp-3f));
    p = v_fma(p, f, v_set1(0x1.62e42ap-1f));
    p = v_fma(p, f, v_set1(1));
    return v_mul(p, v_power_of_two(t));
}

/* As weights_of_words, by an exponential in f32, in so many parts. */
V_INLINE bool weights_by_exp(const weigher *w, const mha_tile *tile, const float *s, int keys, int parts, bool fused,
                             float *p) {
    vf most = v_set1(-INFINITY);
    for (int32_t row = 0; row < tile->lanes; row++) {
        const vf reference = finite_max(v_set1(tile->max[row]));
        float *to = weights_of_row(p, row);
        for (int k = 0; k < keys; k += 2 * V_LANES) {
            vf x[2];
            V_UNROLL
            for (int i = 0; i < 2; i++) {
                x[i] = v_sub(v_load(s + row * STEP_KEYS + k + i * V_LANES), reference);
                most = v_max(x[i], most);
                x[i] = fused ? weight_of(x[i], w) : v_mul(v_exp_u10(x[i], w->softmax), v_set1(WEIGHT_OF_MAX));
            }
            for (int part = 0; part < parts; part++) {
                const __m512i low = rounded_half(&x[0]), high = rounded_half(&x[1]);
                _mm512_storeu_si512(to + part * P_FLOATS + k / 32 * TILE, _mm512_packus_epi32(low, high));
            }
        }
    }
    return v_largest(most) * w->softmax->exp_hi > MOST_OCTAVES_ABOVE;
}

#endif
