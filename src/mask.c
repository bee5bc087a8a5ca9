#include "mask.h"

#include <string.h>

void mha_rows_open(const mha_plan *plan, int64_t batch, int64_t row0, int32_t n, mha_rows *rows) {
    const mha_attention_args *args = &plan->args;
    const int64_t kv_len = mha_plan_kv_len(plan, batch);
    const int64_t offset = args->q_offsets != NULL ? args->q_offsets[batch] : args->q_offset;
    *rows = (mha_rows){.row0 = row0, .first_min = INT64_MAX, .last_min = INT64_MAX};
    for (int32_t r = 0; r < n; r++) {
        const int64_t position = mha_row_query(plan, row0 + r) + offset;
        int64_t first = 0, last = kv_len;
        if (args->is_causal) last = mha_min(last, position + 1);
        if (args->window_left >= 0) first = mha_max(first, position - args->window_left);
        if (args->window_right >= 0) last = mha_min(last, position + args->window_right + 1);
        if (first >= last) first = last = 0;
        rows->first[r] = first;
        rows->last[r] = last;
        rows->first_max = mha_max(rows->first_max, first);
        rows->last_min = mha_min(rows->last_min, last);
        rows->last_max = mha_max(rows->last_max, last);
        if (last > 0) rows->first_min = mha_min(rows->first_min, first);
    }
}

/* Each row flips its bit where its visible keys begin and end; a running XOR over the tile's keys then gives every key
 * its bits in rows + keys steps instead of rows * keys. */
static void exclude_by_position(const mha_tile_place *place, const mha_tile *tile, uint64_t *excluded) {
    const mha_rows *rows = place->rows;
    const int64_t begin = tile->begin, end = tile->end;
    memset(excluded + begin, 0, (size_t)(end - begin) * sizeof *excluded);
    uint64_t bits = 0;
    for (int32_t r = 0; r < tile->rows; r++) {
        const int64_t first = mha_max(rows->first[r] - place->key0, begin);
        const int64_t last = mha_max(rows->last[r] - place->key0, begin);
        bits |= UINT64_C(1) << r;
        if (first >= last) continue;
        if (first < end) excluded[first] ^= UINT64_C(1) << r;
        if (last < end) excluded[last] ^= UINT64_C(1) << r;
    }
    for (int64_t k = begin; k < end; k++) excluded[k] = bits ^= excluded[k];
}

/* The element of the mask for a key of the block. */
static const void *mask_element(const mha_tile_place *place, int32_t r, int32_t key) {
    return mha_score_at(place, &place->plan->args.mask, r, place->key0 + key);
}

static uint64_t all_rows(const mha_tile *tile) { return UINT64_MAX >> (64 - tile->rows); }

/* Bit i: byte i is 0. */
static uint64_t zero_bytes(const uint8_t *bytes) {
    const uint64_t low = UINT64_C(0x7f7f7f7f7f7f7f7f);
    uint64_t x;
    memcpy(&x, bytes, sizeof x);
    const uint64_t top = ~(((x & low) + low) | x | low);
    return (top >> 7) * UINT64_C(0x0102040810204080) >> 56; /* bit 8 i goes to 56 + i */
}

/* Bit j of word i becomes bit i of word j (Warren, Hacker's Delight, 2013, section 7-3). */
static void transpose_bits(uint64_t words[64]) {
    uint64_t low = UINT32_MAX;
    for (int step = 32; step > 0; step /= 2, low ^= low << step)
        for (int i = 0; i < 64; i = ((i | step) + 1) & ~step) {
            const uint64_t swapped = (words[i] >> step ^ words[i | step]) & low;
            words[i] ^= swapped << step;
            words[i | step] ^= swapped;
        }
}

/* Many rows of contiguous keys, eight keys at a time. */
static void exclude_by_bool_rows(const mha_tile_place *place, const mha_tile *tile, uint64_t *excluded) {
    for (int32_t begin = tile->begin; begin < tile->end; begin += 64) {
        uint64_t words[64] = {0};
        const int32_t n = tile->end - begin < 64 ? tile->end - begin : 64;
        for (int32_t r = 0; r < tile->rows; r++) {
            const uint8_t *mask = mask_element(place, r, begin);
            int32_t k = 0;
            for (; k + 8 <= n; k += 8) words[r] |= zero_bytes(mask + k) << k;
            for (; k < n; k++) words[r] |= (uint64_t)(mask[k] == 0) << k;
        }
        transpose_bits(words);
        for (int32_t k = 0; k < n; k++) excluded[begin + k] |= words[k];
    }
}

/* A mask that is the same for all rows is read once. */
static void exclude_by_bool(const mha_tile_place *place, const mha_tile *tile, uint64_t *excluded) {
    enum { MANY_ROWS = 8 };
    const mha_score_tensor *tensor = &place->plan->args.mask;
    const bool same = mha_mask_is_shared(place->plan);
    const uint64_t readers = same ? all_rows(tile) : 1;
    if (!same && tile->rows >= MANY_ROWS && tensor->stride[3] == 1) {
        exclude_by_bool_rows(place, tile, excluded);
        return;
    }
    for (int32_t r = 0; r < (same ? 1 : tile->rows); r++) {
        const uint8_t *mask = mask_element(place, r, tile->begin);
        for (int32_t k = tile->begin; k < tile->end; k++, mask += tensor->stride[3])
            excluded[k] |= (uint64_t)(*mask == 0) * (readers << r);
    }
}

/* A row's addends for keys [begin, end): where they lie, or gathered and made floats in `room`. */
static const float *mask_floats(const mha_tile_place *place, const mha_tile *tile, int32_t r, float *room) {
    const mha_score_tensor *mask = &place->plan->args.mask;
    const int64_t n = tile->end - tile->begin, stride = mask->stride[3];
    const void *first = mask_element(place, r, tile->begin);
    if (mask->dtype == MHA_F32) {
        const float *from = first;
        if (stride == 1) return from;
        for (int64_t k = 0; k < n; k++) room[k] = from[k * stride];
        return room;
    }
    const uint16_t *from = first;
    uint16_t gathered[MHA_MAX_BLOCK_KEYS];
    for (int64_t k = 0; k < n && stride != 1; k++) gathered[k] = from[k * stride];
    place->plan->kernels->widen(stride == 1 ? from : gathered, mask->dtype, room, (size_t)n);
    return room;
}

static void exclude_by_bias(const mha_tile_place *place, const mha_tile *tile, uint64_t *excluded, float *bias,
                            float *room) {
    const mha_path *path = place->plan->path;
    const int64_t key_stride = mha_score_key_stride(path, tile);
    const float *rows[MHA_MAX_LANES];
    const bool same = mha_mask_is_shared(place->plan);
    for (int32_t r = 0; r < tile->rows; r++)
        rows[r] = same && r > 0 ? rows[0] : mask_floats(place, tile, r, room + r * place->plan->path->block_keys);
    if (path->load_bias != NULL) {
        path->load_bias(tile, rows, bias, excluded);
        return;
    }
    for (int32_t r = 0; r < tile->lanes; r++) {
        float *lane = bias + r * path->score_row_stride;
        for (int32_t k = tile->begin; k < tile->end; k++) {
            const float addend = r < tile->rows ? rows[r][k - tile->begin] : 0;
            lane[k * key_stride] = addend;
            excluded[k] |= (uint64_t)(addend == -INFINITY) << r;
        }
    }
}

/* Keys that no row sees at either end of the range need no work. */
static void strip(mha_tile *tile, const uint64_t *excluded) {
    const uint64_t all = all_rows(tile);
    while (tile->begin < tile->end && (excluded[tile->begin] & all) == all) tile->begin++;
    while (tile->begin < tile->end && (excluded[tile->end - 1] & all) == all) tile->end--;
}

static bool any_excluded(const mha_tile *tile, const uint64_t *excluded) {
    uint64_t any = 0;
    for (int32_t k = tile->begin; k < tile->end; k++) any |= excluded[k];
    return any != 0;
}

void mha_mask_tile(const mha_tile_place *place, int32_t keys, mha_tile *tile, uint64_t *excluded, float *bias,
                   float *room) {
    const mha_attention_args *args = &place->plan->args;
    const mha_rows *rows = place->rows;
    const bool every_score = args->scores.data != NULL;
    tile->begin = every_score ? 0 : (int32_t)mha_min(keys, mha_max(0, rows->first_min - place->key0));
    tile->end = every_score ? keys : (int32_t)mha_max(tile->begin, mha_min(keys, rows->last_max - place->key0));
    tile->excluded = NULL;
    tile->bias = NULL;
    if (tile->begin == tile->end) return;

    const bool all_positions_seen =
        rows->first_max <= place->key0 + tile->begin && rows->last_min >= place->key0 + tile->end;
    if (all_positions_seen && args->mask.data == NULL) return;
    exclude_by_position(place, tile, excluded);
    if (args->mask.data != NULL && args->mask.dtype == MHA_BOOL) exclude_by_bool(place, tile, excluded);
    if (args->mask.data != NULL && args->mask.dtype != MHA_BOOL) {
        exclude_by_bias(place, tile, excluded, bias, room);
        tile->bias = bias;
    }
    if (!every_score) strip(tile, excluded);
    if (any_excluded(tile, excluded)) tile->excluded = excluded;
}
