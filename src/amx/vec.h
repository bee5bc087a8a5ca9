/* AVX512-BF16's vocabulary for softmax, and the tiles of AMX. */
#ifndef MHA_AMX_VEC_H
#define MHA_AMX_VEC_H

#if !defined(__AMX_BF16__) && !defined(MHA_EMULATE)
#error "build src/amx with src/avx512bf16's flags and -mamx-tile -mamx-bf16"
#endif

#include "avx512bf16/vec.h"

#undef MHA_ISA
#define MHA_ISA amx
/* Weights are packed in panels of two vectors of outputs; products are 32 bf16 deep. */
#define PANEL        32
#define TILE_VECTORS 2
#define HEAD_STEP    16
#define BLOCK_KEYS   256
#define GEMM_DEPTH   256

/* gcc does not know that tiles read and write memory. */
V_INLINE void tile_fence(void) { __asm__ volatile("" ::: "memory"); }

/* Eight tiles of 16 rows of 64 bytes; their numbers are literals.  C (f32) += A (rows of 32 bf16) B (rows of 16 pairs,
 * the pair of row k: rows 2 k and 2 k + 1 of what is multiplied). */
#ifdef __AMX_BF16__
#define tile_zero(t)                 _tile_zero(t)
#define tile_load(t, p, stride)      _tile_loadd(t, p, stride)
#define tile_load_once(t, p, stride) _tile_stream_loadd(t, p, stride) /* leaves what the first-level cache has */
#define tile_dot(c, a, b)            _tile_dpbf16ps(c, a, b)
#define tile_store(t, p, stride)     _tile_stored(t, p, stride)

static inline void tiles_open(void) {
    /* "Intel 64 and IA-32 Architectures Software Developer's Manual", LDTILECFG: palette 1.  A constant: gcc 12 takes
     * the intrinsic to read 8 bytes (PR 114098), and drops the stores to a variable's others. */
    static const struct {
        uint8_t palette, start_row, reserved[14];
        uint16_t row_bytes[16];
        uint8_t rows[16];
    } config = {
        .palette = 1,
        .row_bytes = {64, 64, 64, 64, 64, 64, 64, 64},
        .rows = {16, 16, 16, 16, 16, 16, 16, 16},
    };
    _Static_assert(sizeof config == 64, "what LDTILECFG reads");
    _tile_loadconfig(&config);
}
static inline void tiles_close(void) { _tile_release(); }
#else
#include "emulate/amx.h"
#endif

#endif
