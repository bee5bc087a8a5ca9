/* Weights of softmax where they become bf16: how far they are from exp, over every fraction of an octave, and that what
 * exceeds or undercuts all others by far keeps its weight. */
#include "isas.h"
#include "test.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* One query a weight: keys 0 and (1, 1, 1), values 0 and 1, so that the output is w / (1 + w) for a score of log w.  At
 * a scale of ln 2 scores are octaves; q has what bf16 takes of an octave, then of the rest, and again. */
enum { TERMS = 3, STEPS_PER_OCTAVE = 4096, OCTAVES = 20, ROWS = OCTAVES * STEPS_PER_OCTAVE };

static float q[ROWS][TERMS], out[ROWS];

static float truncated(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    bits &= 0xffff0000;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static double octave_of(int row) { return -(double)row / STEPS_PER_OCTAVE; }

static void attend(const char *isa, mha_exp exp, mha_precision precision, float *keys, float *values, int64_t n,
                   int64_t rows) {
    mha_context *context = isa_context_of(isa, exp, precision);
    mha_attention_args args;
    mha_attention_args_init(&args, sizeof args);
    args.batch = args.q_heads = args.kv_heads = 1;
    args.q_len = rows;
    args.kv_len = n;
    args.head_dim = TERMS;
    args.v_head_dim = 1;
    args.scale = 0.69314718f;
    args.q = (mha_tensor){q, MHA_F32, {0, 0, TERMS}};
    args.k = (mha_tensor){keys, MHA_F32, {0, 0, TERMS}};
    args.v = (mha_tensor){values, MHA_F32, {0, 0, 1}};
    args.out = (mha_tensor){out, MHA_F32, {0, 0, 1}};
    size_t bytes = 0;
    assert_int_equal(MHA_OK, mha_attention_workspace_size(context, &args, 1, &bytes));
    void *workspace = malloc(bytes);
    assert_int_equal(MHA_OK, mha_attention(context, &args, NULL, workspace, bytes));
    free(workspace);
    mha_context_destroy(context);
}

static void make_queries(void) {
    for (int row = 0; row < ROWS; row++) {
        float rest = (float)octave_of(row);
        for (int t = 0; t < TERMS; t++) rest -= q[row][t] = truncated(rest);
    }
}

/* Rounding is 2^-8 at most and 0.43 of that in the root mean square; AMX's words are allowed 2^-7.5, and 1.1 of it.  Two
 * parts leave 2^-17, and 0.35 of that; 2^-22 is for the exponential, and as much for the output. */
static const struct {
    mha_precision precision;
    double most, rms, mean;
} bounds[] = {
    {MHA_PRECISION_MEDIUM, 0x1.6ap-8, 1.1 * 0.00166, 0x1p-12},
    {MHA_PRECISION_HIGH, 0x1p-17 + 0x1p-21, 1.1 * 0.35 * 0x1p-17, 0x1p-22},
};

static void each_fraction(const char *isa) {
    if (!isa_has_bf16(isa)) return;
    make_queries();
    for (size_t i = 0; i < COUNT(bounds) * 2; i++) {
        const mha_exp exp = i % 2 == 0 ? MHA_EXP_SLEEF : MHA_EXP_FUSED;
        const double most = bounds[i / 2].most;
        float keys[2][TERMS] = {{0}, {1, 1, 1}}, values[2] = {0, 1};
        double squares = 0, sum = 0;
        attend(isa, exp, bounds[i / 2].precision, keys[0], values, 2, ROWS);
        for (int row = 0; row < ROWS; row++) {
            const double wanted = exp2(octave_of(row)), got = out[row] / (1 - (double)out[row]);
            const double error = got / wanted - 1;
            squares += error * error;
            sum += error;
            if (!(fabs(error) <= most))
                fail_msg("isa %s exp %s: the weight of %g octaves is %g, wanted %g, off by %g", isa, exp_name(exp),
                         octave_of(row), got, wanted, error);
        }
        const double rms = sqrt(squares / ROWS), mean = sum / ROWS;
        if (!(rms <= bounds[i / 2].rms && fabs(mean) <= bounds[i / 2].mean))
            fail_msg("isa %s exp %s: weights are off by %g in the root mean square, %g on average", isa, exp_name(exp),
                     rms, mean);
    }
}

/* Scores that rise or fall by so many octaves from one group of keys to the next, about as far as kernels keep a
 * reference that is not the maximum, and further than 16 or 32 bits tell. */
static void rises(const char *isa) {
    static const float octaves[] = {0,   1,   7.5f, 7.96875f, 8,       8.0625f, 8.5f,   20,
                                    118, 121, 140,  0x1p14f,  0x1p20f, 0x1p30f, 0x1p90f};
    enum { GROUP = 64, GROUPS = 6, KEYS = GROUP * GROUPS, N = 2 * (int)COUNT(octaves) };
    static float keys[KEYS][TERMS], values[KEYS];
    if (!isa_has_bf16(isa)) return;
    memset(q, 0, sizeof q);
    for (int row = 0; row < N; row++) q[row][0] = row % 2 == 0 ? octaves[row / 2] : -octaves[row / 2];
    for (int k = 0; k < KEYS; k++) keys[k][0] = (float)(k / GROUP), values[k] = (float)(k / GROUP) / GROUPS;
    for (size_t i = 0; i < COUNT(bounds) * 2; i++) {
        const mha_exp exp = i % 2 == 0 ? MHA_EXP_SLEEF : MHA_EXP_FUSED;
        attend(isa, exp, bounds[i / 2].precision, keys[0], values, KEYS, N);
        for (int row = 0; row < N; row++) {
            const double step = q[row][0], max = step > 0 ? step * (GROUPS - 1) : 0;
            double sum = 0, weighted = 0;
            for (int g = 0; g < GROUPS; g++) {
                const double weight = exp2(step * g - max);
                sum += weight;
                weighted += weight * values[g * GROUP];
            }
            const double wanted = weighted / sum;
            if (!(fabs(out[row] - wanted) <= 0x1p-8))
                fail_msg("isa %s exp %s: with steps of %g octaves out is %g, wanted %g", isa, exp_name(exp), step,
                         out[row], wanted);
        }
    }
}

/* A block of scores so large that their reference is subtracted first, then one of small scores: the row's reference is
 * still the large one.  Beside it rows that are small throughout. */
static void large_then_small(const char *isa) {
    static const float octaves[] = {0x1p19f, 0x1p20f, 0x1p21f, 0x1p30f, 3};
    static const float laters[] = {0, 10, -10};
    enum { BLOCK = 256, KEYS = 2 * BLOCK, N = 2 * (int)COUNT(octaves) };
    static float keys[KEYS][TERMS], values[KEYS];
    if (!isa_has_bf16(isa)) return;
    memset(q, 0, sizeof q);
    for (int row = 0; row < N; row++) q[row][0] = row % 2 == 0 ? octaves[row / 2] : -octaves[row / 2], q[row][1] = 1;
    for (size_t i = 0; i < COUNT(laters) * COUNT(bounds); i++) {
        const float later = laters[i / COUNT(bounds)];
        const mha_precision precision = bounds[i % COUNT(bounds)].precision;
        for (int k = 0; k < KEYS; k++) {
            keys[k][0] = k < BLOCK ? 1 : 0;
            keys[k][1] = k < BLOCK ? 0 : later;
            values[k] = k < BLOCK ? 0.25f : 0.75f;
        }
        for (mha_exp exp = MHA_EXP_SLEEF; exp <= MHA_EXP_FUSED; exp++) {
            attend(isa, exp, precision, keys[0], values, KEYS, N);
            for (int row = 0; row < N; row++) {
                const double first = q[row][0], second = later, w = 1 / (1 + exp2(first - second));
                const double wanted = 0.25 + 0.5 * w;
                if (!(fabs(out[row] - wanted) <= 0x1p-8))
                    fail_msg("isa %s exp %s: after scores of %g octaves, scores of %g: out is %g, wanted %g", isa,
                             exp_name(exp), first, second, out[row], wanted);
            }
        }
    }
}

int main(void) {
    static const isa_test tests[] = {ISA_TEST(each_fraction), ISA_TEST(rises), ISA_TEST(large_then_small)};
    return isa_tests_run(tests, COUNT(tests));
}
