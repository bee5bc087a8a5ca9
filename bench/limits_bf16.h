/* Sums of products of bf16 on registers alone: c += a b in independent chains.  Numbers do not matter to their speed. */
#if defined(__AMX_BF16__)
#include <immintrin.h>
#include <stdint.h>

/* Four tiles of sums: a product takes 16 cycles, its result 52. */
enum { STEP_FLOPS = 4 * 2 * 16 * 16 * 32 };

static float multiply_add_bf16(size_t n, float a, float b) {
    struct {
        uint8_t palette, start_row, reserved[14];
        uint16_t row_bytes[16];
        uint8_t rows[16];
    } config = {.palette = 1};
    (void)a, (void)b;
    for (int t = 0; t < 8; t++) config.row_bytes[t] = 64, config.rows[t] = 16;
    __asm__ volatile("" : : "r"(&config) : "memory"); /* gcc does not know how much of it is read */
    _tile_loadconfig(&config);
    for (; n > 0; n--) {
        _tile_dpbf16ps(0, 4, 5);
        _tile_dpbf16ps(1, 4, 5);
        _tile_dpbf16ps(2, 4, 5);
        _tile_dpbf16ps(3, 4, 5);
    }
    _tile_release();
    return 0;
}
#else
#if defined(__AVX512BF16__)
#include <immintrin.h>
enum { SUMMED = 2 }; /* products a lane */
typedef __m512 sums;
#define PRODUCT(c, a, b) c = _mm512_dpbf16_ps(c, (__m512bh)a, (__m512bh)b)
#else
#include <arm_neon.h>
enum { SUMMED = 4 };
typedef float32x4_t sums;
#define PRODUCT(c, a, b) c = vbfmmlaq_f32(c, vreinterpretq_bf16_f32(a), vreinterpretq_bf16_f32(b))
#endif
enum { STEP_FLOPS = 2 * (int)SUMMED * (int)LANES * (int)N_CHAINS };

static float multiply_add_bf16(size_t n, float a, float b) {
    const sums va = a - (sums){0}, vb = b - (sums){0};
#define START(i) sums x##i = vb * (float)(i);
    CHAINS(START)
#undef START
    for (; n > 0; n--) {
#define STEP(i) PRODUCT(x##i, va, vb);
        CHAINS(STEP)
#undef STEP
    }
    sums sum = {0};
#define SUM(i) sum += x##i;
    CHAINS(SUM)
#undef SUM
    return sum[0];
}
#endif
