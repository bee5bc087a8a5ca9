/* A block of keys against tiles of rows, scored STEP_KEYS at a time; then all weights of the tile meet V together.  The
 * first scores S' of the next tile are multiplied before that, so that neither products nor weights wait for the last
 * stores of the other:
 *
 *     S(0)   P(0) S(1)   P(1) S(2)   P(2) S(3)   P(3) S'(0) PV   P'(0) S'(1) ...
 *
 * One S is enough, since P(i) has read S(i) before S(i + 1) is written; and one P, which PV has read before P'(0). */
#ifndef MHA_AMX_ROWS_BLOCK_H
#define MHA_AMX_ROWS_BLOCK_H

static void K(open)(void) { tiles_open(); }
static void K(close)(void) { tiles_close(); }

typedef struct step {
    mha_tile *tile;
    int32_t key; /* first of the block's that it multiplies */
    int keys;    /* 32 or 64 */
} step;

typedef struct rows_update {
    const mha_kv_block *block;
    weigher weigher;
    float *s, *p;
    bool finite_values;
    float at_zero[ROWS]; /* of the step's tile, as what follows */
    bool finite;         /* its products are */
    bool bounded;        /* and so are its scores; they and its references are so small that words cannot wrap */
    bool fresh;          /* it has no O yet */
    int32_t waiting;     /* first key whose weights have not met V */
} rows_update;

static step step_at(mha_tile *tile, int32_t key) { return (step){tile, key, tile->end - key > 32 ? STEP_KEYS : 32}; }

/* The first step of the first tile that sees keys, or of none: tile == end. */
static step first_step(mha_tile *tile, const mha_tile *end) {
    while (tile < end && tile->begin == tile->end) tile++;
    return tile < end ? step_at(tile, tile->begin / STEP_KEYS * STEP_KEYS) : (step){.tile = tile};
}

static step step_after(const step *now, const mha_tile *end) {
    if (now->key + STEP_KEYS < now->tile->end) return step_at(now->tile, now->key + STEP_KEYS);
    return first_step(now->tile + 1, end);
}

static void multiply_queries(const rows_update *u, const step *now, int parts, float *to) {
    const int64_t tiles = head_tiles(u->block->head_dim);
    const columns cols = {.a = now->tile->q,
                          .b = u->block->packed_k + now->key / TILE_ROWS * tiles * TILE,
                          .a_second = tiles * TILE,
                          .b_step = TILE,
                          .b_next = tiles * TILE,
                          .steps = tiles,
                          .parts = parts,
                          .a_part = q_floats(now->tile->lanes, u->block->head_dim),
                          .b_part = k_floats(u->block->head_dim),
                          .c = to,
                          .c_second = TILE_ROWS * STEP_KEYS,
                          .c_row_bytes = STEP_KEYS * (int64_t)sizeof(float),
                          .c_next = TILE_FLOATS,
                          .n = now->keys / TILE_ROWS};
    if (now->tile->lanes == TILE_ROWS) multiply_columns(&cols, 1, u->block->ahead);
    else multiply_columns(&cols, 2, u->block->ahead);
}

/* Weights of keys [key, key + keys). */
static void multiply_weights(const rows_update *u, mha_tile *tile, int32_t key, int32_t keys) {
    const mha_kv_block *block = u->block;
    const int64_t tiles = value_tiles(block->v_head_dim), from = key / 32 * tiles * TILE;
    const int64_t first = u->finite_values ? 0 : finite_values(block->v_head_dim, u->weigher.parts);
    const columns cols = {.a = u->p + key / 32 * TILE,
                          .b = block->packed_v + first + from,
                          .a_second = BLOCK_KEYS / 32 * TILE,
                          .b_step = tiles * TILE,
                          .b_next = TILE,
                          .steps = keys / 32,
                          .parts = u->weigher.parts,
                          .a_part = P_FLOATS,
                          .b_part = v_floats(block->v_head_dim) - first,
                          .c = tile->o,
                          .c_second = (tiles + 1) * TILE,
                          .c_row_bytes = TILE_BYTES,
                          .c_next = TILE,
                          .add = !u->fresh,
                          .n = tiles + 1,
                          .last_b = block->packed_v + ones_tile(block->v_head_dim, u->weigher.parts)};
    if (tile->lanes == TILE_ROWS) multiply_columns(&cols, 1, block->ahead);
    else multiply_columns(&cols, 2, block->ahead);
}

static uint16_t *weight_at(float *p, int32_t row, int32_t key) {
    return (uint16_t *)(void *)(weights_of_row(p, row) + key / 32 * TILE) + place_of_key(key % 32);
}

static float bf16_at(const uint16_t *p) {
    const uint32_t bits = (uint32_t)*p << 16;
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* Adds the values of keys [key, end) that are not finite to the rows that see them. */
static void add_values_not_finite(const rows_update *u, mha_tile *tile, int32_t key, int32_t end) {
    const mha_kv_block *block = u->block;
    const int64_t tiles = value_tiles(block->v_head_dim);
    for (int32_t k = key > tile->begin ? key : tile->begin; k < end && k < tile->end; k++)
        for (int32_t d = 0; d < block->v_head_dim; d++) {
            const int64_t pair = place_of_key(k % 32) / 2;
            const float *units =
                block->packed_v + ((k / 32 * tiles + d / 16) * TILE_ROWS + pair) * TILE_FLOATS + d % 16;
            const float value = bf16_at((const uint16_t *)(const void *)units + k % 2);
            if (isfinite(value)) continue;
            for (int32_t row = 0; row < tile->rows; row++) {
                if (tile->excluded != NULL && (tile->excluded[k] >> row & 1) != 0) continue;
                row_at(tile->o, row, tiles + 1, d / 16)[d % 16] += bf16_at(weight_at(u->p, row, k)) * value;
            }
        }
}

/* Adds what the weights from u->waiting to `end` give. */
static void accumulate(rows_update *u, mha_tile *tile, int32_t end) {
    if (u->waiting == end) return;
    multiply_weights(u, tile, u->waiting, end - u->waiting);
    if (!u->finite_values) add_values_not_finite(u, tile, u->waiting, end);
    u->fresh = false;
    u->waiting = end;
}

static void cap_step(const rows_update *u, const step *now) {
    const vf cap = v_set1(u->weigher.softmax->cap);
    for (int32_t i = 0; i < now->tile->lanes * STEP_KEYS; i += V_LANES)
        v_store(u->s + i, v_tanh_sleef(v_mul(v_load(u->s + i), cap)));
}

static void add_bias(const rows_update *u, const step *now) {
    const vf scale = v_set1(u->weigher.softmax->bias_scale);
    const float *bias = now->tile->bias + bias_at(now->tile->lanes, 0, now->key);
    for (int32_t i = 0; i < now->tile->lanes * STEP_KEYS; i += V_LANES)
        v_store(u->s + i, v_fma(v_load(u->s + i), scale, v_load(bias + i)));
}

#define LANES _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)

/* -inf for keys that the tile does not see, or a row does not. */
static void exclude_keys(const rows_update *u, const step *now) {
    const mha_tile *tile = now->tile;
    const vf lowest = v_set1(-INFINITY);
    for (int32_t k = now->key; k < now->key + now->keys; k += V_LANES) {
        const __m512i keys = _mm512_add_epi32(LANES, _mm512_set1_epi32(k));
        const vm outside = _mm512_cmplt_epi32_mask(keys, _mm512_set1_epi32(tile->begin)) |
                           _mm512_cmpge_epi32_mask(keys, _mm512_set1_epi32(tile->end));
        const vm inside = (vm)~outside;
        const bool some = tile->excluded != NULL && inside != 0;
        const uint64_t *excluded = some ? tile->excluded + k : NULL;
        const __m512i first = some ? _mm512_maskz_loadu_epi64((__mmask8)inside, excluded) : _mm512_setzero_si512(),
                      second = some ? _mm512_maskz_loadu_epi64((__mmask8)(inside >> 8), excluded + 8)
                                    : _mm512_setzero_si512();
        if (outside == 0 && _mm512_test_epi64_mask(_mm512_or_si512(first, second), _mm512_set1_epi64(-1)) == 0)
            continue;
        for (int32_t row = 0; row < tile->lanes; row++) {
            const __m512i bit = _mm512_set1_epi64((int64_t)(UINT64_C(1) << row));
            const vm hidden = (vm)(_mm512_test_epi64_mask(first, bit) | _mm512_test_epi64_mask(second, bit) << 8);
            _mm512_mask_storeu_ps(u->s + row * STEP_KEYS + k - now->key, hidden | outside, lowest);
        }
    }
}

static void visit_step(const rows_update *u, const step *now, mha_scores_mode stage) {
    if (now->tile->scores_visitor == NULL) return;
    mha_tile part = *now->tile;
    const int32_t end = now->key + now->keys;
    part.begin = part.begin > now->key ? part.begin : now->key;
    part.end = part.end < end ? part.end : end;
    mha_scores_visit(part.scores_visitor, &part, u->s - now->key, stage);
}

/* Beside what is infinite, parts that are 0 make NaN of a score: there the first parts alone say what it is. */
static void mend_scores(const rows_update *u, const step *now) {
    float first[S_FLOATS];
    multiply_queries(u, now, 1, first);
    for (int32_t i = 0; i < now->tile->lanes * STEP_KEYS; i += V_LANES) {
        const vf x = v_load(u->s + i);
        v_store(u->s + i, v_blend(v_mask(v_equal(x, x)), v_load(first + i), x));
    }
}

static void modify_step(const rows_update *u, const step *now) {
    const mha_tile *tile = now->tile;
    if (u->weigher.parts > 1 && !u->finite) mend_scores(u, now);
    visit_step(u, now, MHA_SCORES_RAW);
    if (u->weigher.softmax->cap != 0) cap_step(u, now);
    visit_step(u, now, MHA_SCORES_SOFTCAPPED);
    if (tile->bias != NULL) add_bias(u, now);
    if (tile->excluded != NULL || tile->begin > now->key || tile->end < now->key + now->keys) exclude_keys(u, now);
    visit_step(u, now, MHA_SCORES_BIASED);
}

/* Takes scores that are NaN or +inf, which words cannot tell, for -inf, and marks them. */
static bool take_bad_scores(float *s, const step *now, uint64_t bad[ROWS]) {
    uint64_t any = 0;
    for (int32_t row = 0; row < now->tile->lanes; row++) {
        bad[row] = 0;
        for (int k = 0; k < now->keys; k += V_LANES) {
            const vf x = v_load(s + row * STEP_KEYS + k);
            const vm m = _mm512_cmp_ps_mask(x, v_set1(INFINITY), _CMP_NLT_UQ);
            v_store(s + row * STEP_KEYS + k, v_blend(m, x, v_set1(-INFINITY)));
            bad[row] |= (uint64_t)m << k;
        }
        any |= bad[row];
    }
    return any != 0;
}

static void put_bad_weights(float *p, const step *now, const uint64_t bad[ROWS]) {
    for (int32_t row = 0; row < now->tile->lanes; row++)
        for (int k = 0; k < now->keys; k++)
            if ((bad[row] >> k & 1) != 0) *weight_at(p, row, k) = 0x7fc0;
}

/* Where the first-level cache holds them beside all else: O as a tile comes, Q as it goes. */
static near_fetch fetch_of(const rows_update *u, const step *now, const step *next) {
    const int64_t head = head_tiles(u->block->head_dim), outs = o_tiles(u->block->v_head_dim);
    const bool small = head <= 2 && outs <= 5, ends = next->tile != now->tile;
    if (small && now->key <= now->tile->begin && !u->fresh) return (near_fetch){now->tile->o, (int)outs};
    if (small && ends && next->keys > 0) return (near_fetch){next->tile->q, (int)head};
    return (near_fetch){NULL, 0};
}

/* Where the weights of a step go. */
static float *step_weights(const rows_update *u, const step *now) { return u->p + now->key / 32 * TILE; }

/* Returns whether a reference must rise first. */
V_INLINE bool compute_weights(const rows_update *u, const step *now, const step *next) {
    const weigher *w = &u->weigher;
    const int32_t rows = now->tile->lanes;
    const near_fetch fetch = fetch_of(u, now, next);
    float *p = step_weights(u, now);
    if (!w->fused) return weights_by_exp(w, now->tile, u->s, now->keys, w->parts, false, p);
    if (w->parts > 1) return weights_by_exp(w, now->tile, u->s, now->keys, 2, true, p);
    if (now->keys > 32) return weights_of_words(w, u->s, rows, 64, u->at_zero, fetch, p);
    return weights_of_words(w, u->s, rows, 32, u->at_zero, fetch, p);
}

/* Weights that wait are relative to the references that now rise. */
static void raise_step(rows_update *u, const step *now) {
    accumulate(u, now->tile, now->key);
    raise_references(&u->weigher, now->tile, u->s, now->keys, o_tiles(u->block->v_head_dim), u->at_zero);
}

/* A row without a reference yet needs its maximum. */
static bool all_seen(const rows_update *u, const mha_tile *tile) {
    uint64_t unseen = 0;
    for (int32_t row = 0; row < tile->lanes; row += V_LANES)
        unseen |= v_equal(v_load(u->at_zero + row), v_set1(INFINITY));
    return unseen == 0;
}

static void weigh_step(rows_update *u, const step *now, const step *next) {
    const weigher *w = &u->weigher;
    uint64_t bad[ROWS];
    if (u->bounded && all_seen(u, now->tile) && !compute_weights(u, now, next)) return;
    const bool any_bad = !u->bounded && take_bad_scores(u->s, now, bad);
    raise_step(u, now);
    if (uses_words(w) && !u->bounded) shift_scores(w, now->tile, u->s, now->keys);
    compute_weights(u, now, next);
    if (any_bad) put_bad_weights(step_weights(u, now), now, bad);
}

static void open_tile(rows_update *u, const step *first) {
    const mha_tile *tile = first->tile;
    const mha_softmax *softmax = u->weigher.softmax;
    const int32_t head_dim = u->block->head_dim;
    const int64_t q_end = u->weigher.parts * q_floats(tile->lanes, head_dim);
    const int64_t k_end = u->weigher.parts * k_floats(head_dim);
    const float products = tile->q[q_end] * u->block->packed_k[k_end] * (float)head_dim; /* at most */
    uint64_t empty = 0xffff, unshifted = 0xffff;
    for (int32_t row = 0; row < tile->lanes; row += V_LANES) {
        const vf reference = v_load(tile->max + row); /* of a block before, whose scores may have been larger */
        v_store(u->at_zero + row, words_at_zero(&u->weigher, reference));
        unshifted &= v_equal(shifts(&u->weigher, reference), v_zero());
        empty &= v_equal(v_load(tile->sum + row), v_zero());
    }
    u->fresh = empty == 0xffff;
    u->waiting = first->key;
    u->finite = products < 0x1p100f;
    u->bounded = u->finite && unshifted == 0xffff && tile->bias == NULL && softmax->cap == 0 &&
                 products * softmax->exp_hi < MOST_OCTAVES / 2;
}

/* The sums of O's last column, relative to the reference. */
static void close_tile(const mha_tile *tile, int32_t v_head_dim) {
    const int64_t tiles = o_tiles(v_head_dim);
    const __m512i first_columns = _mm512_mullo_epi32(LANES, _mm512_set1_epi32(TILE_FLOATS));
    for (int32_t row = 0; row < tile->lanes; row += TILE_ROWS) {
        const float *sums = row_at(tile->o, row, tiles, tiles - 1);
        v_store(tile->sum + row, v_mul(_mm512_i32gather_ps(first_columns, sums, 4), v_set1(1 / WEIGHT_OF_MAX)));
    }
}

/* A share before each pair of columns. */
static void pace_steps(const mha_kv_block *block, mha_tile *tiles, const mha_tile *end) {
    const int64_t of_scores = STEP_KEYS / 32, of_values = (o_tiles(block->v_head_dim) + 1) / 2;
    int64_t pairs = 0; /* of columns */
    for (step i = first_step(tiles, end); i.tile < end;) {
        const step next = step_after(&i, end);
        pairs += of_scores + (next.tile != i.tile ? of_values : 0);
        i = next;
    }
    mha_ahead_pace(block->ahead, pairs);
}

static void update_rows(const mha_softmax *softmax, const mha_kv_block *block, mha_tile *tiles, size_t n, int parts,
                        bool fused, float *s) {
    const mha_tile *end = tiles + n, *open = NULL;
    const float all_finite = block->packed_v[ones_tile(block->v_head_dim, parts) + TILE];
    rows_update u = {.block = block,
                     .weigher = weigher_of(softmax, fused, parts),
                     .s = s,
                     .p = s + S_FLOATS,
                     .finite_values = all_finite != 0};
    step now = first_step(tiles, end);
    if (block->ahead != NULL) pace_steps(block, tiles, end);
    if (now.tile < end) multiply_queries(&u, &now, parts, s);
    mha_phase_end(MHA_PHASE_QK);
    while (now.tile < end) {
        const step next = step_after(&now, end);
        if (open != now.tile) open_tile(&u, &now);
        modify_step(&u, &now);
        mha_phase_end(MHA_PHASE_MODIFY);
        weigh_step(&u, &now, &next);
        mha_phase_end(MHA_PHASE_SOFTMAX);
        if (open != NULL && open != now.tile) close_tile(open, block->v_head_dim); /* its stores are done by now */
        open = now.tile;
        if (next.tile < end) multiply_queries(&u, &next, parts, s);
        mha_phase_end(MHA_PHASE_QK);
        if (next.tile != now.tile) accumulate(&u, now.tile, now.key + now.keys);
        mha_phase_end(MHA_PHASE_PV);
        now = next;
    }
    if (open != NULL) close_tile(open, block->v_head_dim);
}

/* A path of so many parts. */
#define ROWS_FUNCTIONS(kind, parts)                                                                                    \
    static size_t K(kind##_q_floats)(int32_t lanes, int32_t head_dim) {                                                \
        return (size_t)((parts) * q_floats(lanes, head_dim) + V_LANES);                                                \
    }                                                                                                                  \
    static size_t K(kind##_score_floats)(int32_t lanes) { return score_floats(lanes, parts); }                         \
    static size_t K(kind##_k_floats)(int32_t head_dim) { return (size_t)((parts) * k_floats(head_dim) + V_LANES); }    \
    static size_t K(kind##_v_floats)(int32_t v_head_dim) {                                                             \
        return (size_t)(ones_tile(v_head_dim, parts) + TILE + V_LANES);                                                \
    }                                                                                                                  \
    static void K(kind##_load)(mha_tile * tile, const void *const rows[], mha_dtype dtype, int32_t head_dim,           \
                               int32_t v_head_dim, float q_factor) {                                                   \
        (void)v_head_dim; /* the first products make O */                                                              \
        V_WITH_DTYPE(dtype, q_factor == 1 ? load_rows(tile, rows, T, parts, head_dim, 1)                               \
                                          : load_rows(tile, rows, T, parts, head_dim, q_factor));                      \
    }                                                                                                                  \
    static void K(kind##_pack_keys)(const mha_kv_block *block, float *packed) { pack_keys(block, parts, packed); }     \
    static void K(kind##_pack_values)(const mha_kv_block *block, float *packed) { pack_values(block, parts, packed); } \
    static void K(kind##_block_sleef)(const mha_softmax *softmax, const mha_kv_block *block, mha_tile *tiles,          \
                                      size_t n, float *s) {                                                            \
        update_rows(softmax, block, tiles, n, parts, false, s);                                                        \
    }                                                                                                                  \
    static void K(kind##_block_fused)(const mha_softmax *softmax, const mha_kv_block *block, mha_tile *tiles,          \
                                      size_t n, float *s) {                                                            \
        update_rows(softmax, block, tiles, n, parts, true, s);                                                         \
    }

ROWS_FUNCTIONS(rows, 1)
ROWS_FUNCTIONS(split, 2)

#define ROWS_PATH(kind)                                                                                                \
    {.open = K(open),                                                                                                  \
     .close = K(close),                                                                                                \
     .max_rows = ROWS,                                                                                                 \
     .block_keys = BLOCK_KEYS,                                                                                         \
     .score_key_stride = 1,                                                                                            \
     .score_row_stride = STEP_KEYS,                                                                                    \
     .lanes = K(rows_lanes),                                                                                           \
     .q_floats = K(kind##_q_floats),                                                                                   \
     .o_floats = K(rows_o_floats),                                                                                     \
     .score_floats = K(kind##_score_floats),                                                                           \
     .packed_k_floats = K(kind##_k_floats),                                                                            \
     .packed_v_floats = K(kind##_v_floats),                                                                            \
     .pack_keys = K(kind##_pack_keys),                                                                                 \
     .pack_values = K(kind##_pack_values),                                                                             \
     .load = K(kind##_load),                                                                                           \
     .block = {K(kind##_block_sleef), K(kind##_block_fused)},                                                          \
     .load_bias = K(rows_load_bias),                                                                                   \
     .finish = K(rows_finish)}

#endif
