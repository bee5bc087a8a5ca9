/* Blocks of keys and values as the B operands of src/amx/rows.h. */
#ifndef MHA_AMX_ROWS_PACK_H
#define MHA_AMX_ROWS_PACK_H

/* Behind the parts of K stands the largest magnitude; behind those of V the first again, with zeros for what is not
 * finite, if something is not; a tile of ones; and whether all is finite. */
V_INLINE int64_t finite_values(int32_t v_head_dim, int parts) { return parts * v_floats(v_head_dim); }
V_INLINE int64_t ones_tile(int32_t v_head_dim, int parts) { return (parts + 1) * v_floats(v_head_dim); }

V_INLINE __m512i pack_key_tiles(const mha_kv_block *block, mha_dtype dtype, int part, float *to) {
    const int64_t tiles = head_tiles(block->head_dim), rows = round_up(block->keys, 32);
    __m512i most = _mm512_setzero_si512();
    for (int64_t k = 0; k < rows; k += TILE_ROWS)
        for (int64_t t = 0; t < tiles; t++) {
            const int64_t left = block->head_dim - t * 32;
            vf r[V_LANES];
            V_UNROLL
            for (int i = 0; i < V_LANES; i++) {
                const void *key = mha_element(block->k, (k + i) * block->k_stride + t * 32, dtype);
                r[i] = k + i < block->keys ? load_tile_row(key, left, dtype, part, 1) : v_zero();
                most = larger_magnitudes(most, _mm512_castps_si512(r[i]));
            }
            v_transpose(r);
            V_UNROLL
            for (int i = 0; i < V_LANES; i++, to += TILE_FLOATS) v_store(to, r[i]);
        }
    return most;
}

V_INLINE void pack_keys(const mha_kv_block *block, int parts, float *packed) {
    const int64_t floats = k_floats(block->head_dim);
    __m512i most;
    V_WITH_DTYPE(block->k_dtype, most = pack_key_tiles(block, T, 0, packed));
    packed[parts * floats] = largest_magnitude(most);
    if (parts > 1) V_WITH_DTYPE(block->k_dtype, pack_key_tiles(block, T, 1, packed + floats));
}

/* VPACKUSDW leaves the weights of keys 0..15 and 16..31 of 32 in fours: 0..3, 16..19, 4..7, ...  Which pair of V's rows
 * that makes the pair at `at`, and where the weight of a key is. */
V_INLINE int64_t first_key_of_pair(int64_t at) { return at / 4 * 4 + at % 4 / 2 * 16 + at % 2 * 2; }
V_INLINE int64_t place_of_key(int64_t key) { return key % 16 / 4 * 8 + key / 16 * 4 + key % 4; }

/* 32 columns of a key from d on, as bf16. */
V_INLINE __m512i load_value_row(const mha_kv_block *block, mha_dtype dtype, int part, int64_t k, int64_t d) {
    const int64_t left = block->v_head_dim - d;
    if (k >= block->keys) return _mm512_setzero_si512();
    return _mm512_castps_si512(load_tile_row(value_at(block, dtype, k, d), left, dtype, part, 1));
}

V_INLINE void pack_value_tiles(const mha_kv_block *block, mha_dtype dtype, int part, float *packed) {
    const __m512i first = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11),
                  second = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
    const int64_t tiles = value_tiles(block->v_head_dim);
    for (int64_t k = 0; k < block->keys; k += 32)
        for (int64_t t = 0; t < tiles; t += 2)
            for (int64_t i = 0; i < TILE_ROWS; i++) {
                const int64_t key = k + first_key_of_pair(i);
                const __m512i even = load_value_row(block, dtype, part, key, t * 16),
                              odd = load_value_row(block, dtype, part, key + 1, t * 16);
                const __m512i low = _mm512_unpacklo_epi16(even, odd), high = _mm512_unpackhi_epi16(even, odd);
                float *to = packed + ((k / 32 * tiles + t) * TILE_ROWS + i) * TILE_FLOATS;
                _mm512_storeu_si512(to, _mm512_permutex2var_epi64(low, first, high));
                if (t + 1 < tiles) _mm512_storeu_si512(to + TILE, _mm512_permutex2var_epi64(low, second, high));
            }
}

V_INLINE __mmask32 not_finite_halves(__m512i pairs) {
    const __m512i exponent = _mm512_set1_epi16(0x7f80);
    return _mm512_cmpeq_epi16_mask(_mm512_and_si512(pairs, exponent), exponent);
}

/* 0 x is NaN for what is not finite: rows that do not see a value must not multiply it.  Returns whether all is. */
static bool pack_finite_values(const mha_kv_block *block, const float *packed, float *finite) {
    const int64_t floats = round_up(block->keys, 32) / 32 * value_tiles(block->v_head_dim) * TILE;
    uint32_t any = 0;
    for (int64_t i = 0; i < floats; i += V_LANES) any |= not_finite_halves(_mm512_loadu_si512(packed + i));
    for (int64_t i = 0; any != 0 && i < floats; i += V_LANES) {
        const __m512i pairs = _mm512_loadu_si512(packed + i);
        _mm512_storeu_si512(finite + i, _mm512_maskz_mov_epi16(~not_finite_halves(pairs), pairs));
    }
    return any == 0;
}

V_INLINE void pack_values(const mha_kv_block *block, int parts, float *packed) {
    const int32_t dim = block->v_head_dim;
    float *ones = packed + ones_tile(dim, parts);
    V_WITH_DTYPE(block->v_dtype, pack_value_tiles(block, T, 0, packed));
    if (parts > 1) V_WITH_DTYPE(block->v_dtype, pack_value_tiles(block, T, 1, packed + v_floats(dim)));
    for (int i = 0; i < TILE; i += V_LANES) v_store(ones + i, v_set1(ONES));
    ones[TILE] = pack_finite_values(block, packed, packed + finite_values(dim, parts));
}

#endif
