/* What a core can do at most with one instruction set: compiled once for each, with its flags and BENCH_ISA its
 * name. */
#include <stddef.h>

#if defined(__AVX512F__)
#define VECTOR_BYTES 64
#elif defined(__AVX__)
#define VECTOR_BYTES 32
#else
#define VECTOR_BYTES 16
#endif

#define PASTE_(a, b) a##b
#define PASTE(a, b)  PASTE_(a, b)

typedef float vector __attribute__((vector_size(VECTOR_BYTES)));

enum { LANES = VECTOR_BYTES / sizeof(float) };

float PASTE(bench_multiply_add_, BENCH_ISA)(size_t n, float a, float b);
float PASTE(bench_read_, BENCH_ISA)(const float *data, size_t n);

/* Independent chains: latency times throughput is 8 on today's x86, up to 16 on Arm, which has registers for them. */
#define TWELVE(DO) DO(0) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7) DO(8) DO(9) DO(10) DO(11)
#ifdef __aarch64__
#define CHAINS(DO) TWELVE(DO) DO(12) DO(13) DO(14) DO(15) DO(16) DO(17) DO(18) DO(19)
enum { N_CHAINS = 20 };
#else
#define CHAINS(DO) TWELVE(DO)
enum { N_CHAINS = 12 };
#endif

extern const double PASTE(bench_multiply_add_flops_, BENCH_ISA);

#ifdef BENCH_BF16
#include "limits_bf16.h"
const double PASTE(bench_multiply_add_flops_, BENCH_ISA) = STEP_FLOPS;
float PASTE(bench_multiply_add_, BENCH_ISA)(size_t n, float a, float b) { return multiply_add_bf16(n, a, b); }
#else
const double PASTE(bench_multiply_add_flops_, BENCH_ISA) = 2 * (int)LANES * (int)N_CHAINS;

/* x = x * a + b on registers alone, one instruction where the ISA has a fused one. */
float PASTE(bench_multiply_add_, BENCH_ISA)(size_t n, float a, float b) {
    const vector va = a - (vector){0}, vb = b - (vector){0};
#define START(i) vector x##i = vb * (float)(i);
    CHAINS(START)
    for (; n > 0; n--) {
#define STEP(i)  x##i = x##i * va + vb;
        CHAINS(STEP)
    }
    vector sum = {0};
#define SUM(i)   sum += x##i;
    CHAINS(SUM)
    float total = 0;
    for (size_t i = 0; i < LANES; i++) total += sum[i];
    return total;
}

#endif

/* Reads n floats, a multiple of STREAMS * VISIT vectors at a vector's alignment, from STREAMS places in turn: hardware
 * fetches ahead page by page, so that one place after the other would show two thirds of what DRAM gives. */
float PASTE(bench_read_, BENCH_ISA)(const float *data, size_t n) {
    enum { STREAMS = 16, VISIT = 4 };
    const size_t length = n / LANES / STREAMS;
    const vector *const first = (const vector *)(const void *)data;
    vector s0 = {0}, s1 = {0}, s2 = {0}, s3 = {0};
    for (size_t i = 0; i < length; i += VISIT)
        for (size_t stream = 0; stream < STREAMS; stream++) {
            const vector *v = first + stream * length + i;
            s0 += v[0], s1 += v[1], s2 += v[2], s3 += v[3];
        }
    const vector sum = s0 + s1 + s2 + s3;
    float total = 0;
    for (size_t i = 0; i < LANES; i++) total += sum[i];
    return total;
}
