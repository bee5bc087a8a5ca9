/* Random problems: every option with every other.  MHA_TEST_SEED=n runs the one problem that a failure named. */
#include "check.h"
#include "isas.h"
#include "rng.h"
#include "test.h"

#include <stdlib.h>

typedef struct fuzz_case {
    spec spec;
    float scale;
    int64_t left, right;
} fuzz_case;

static int64_t pick_length(rng *r) {
    static const int16_t edges[] = {1, 2, 8, 16, 32, 48, 64, 96, 128, 192, 256, 384, 512};
    if (rng_chance(r, 0.3)) return rng_between(r, 1, 20);
    if (rng_chance(r, 0.5)) return edges[rng_between(r, 0, COUNT(edges) - 1)] + rng_between(r, -1, 1);
    return rng_between(r, 1, 600);
}

static int64_t pick_dim(rng *r) {
    static const int16_t usual[] = {16, 32, 64, 80, 96, 128};
    return rng_chance(r, 0.3) ? usual[rng_between(r, 0, COUNT(usual) - 1)] : rng_between(r, 1, 70);
}

static void pick_sizes(rng *r, spec *s) {
    static const int8_t groups[] = {1, 1, 2, 3, 4, 7, 8};
    s->batch = rng_between(r, 1, 3);
    s->kv_heads = rng_between(r, 1, 3);
    s->q_heads = s->kv_heads * groups[rng_between(r, 0, COUNT(groups) - 1)];
    s->q_len = rng_chance(r, 0.3) ? rng_between(r, 1, 5) : pick_length(r);
    s->kv_len = pick_length(r);
    s->head_dim = pick_dim(r);
    if (rng_chance(r, 0.3)) s->v_head_dim = pick_dim(r);
    s->layout = (layout)rng_between(r, BHTD, SHARED_TOKENS);
    if (s->layout == PACKED || s->layout == PACKED_OUT) s->kv_len = s->q_len;
    if (s->layout == WIDE) s->kv_len = s->kv_len % 100 + 1, s->q_len = s->q_len % 100 + 1;
    /* A naive run of a fraction of a second. */
    while (s->batch * s->q_heads * s->q_len * s->kv_len * s->head_dim > 4000000) {
        s->batch = 1;
        s->q_heads = s->kv_heads = (s->kv_heads + 1) / 2;
        s->q_len = (s->q_len + 1) / 2;
        if (s->layout == PACKED || s->layout == PACKED_OUT) s->kv_len = s->q_len;
    }
}

static void pick_options(rng *r, fuzz_case *c) {
    spec *s = &c->spec;
    static const float scales[] = {0.1f, -0.2f, 0, 1}, softcaps[] = {0.3f, 2, 20, 50};
    const bool shared = s->layout == SHARED_HEADS || s->layout == SHARED_TOKENS;
    c->scale = scales[rng_between(r, 0, COUNT(scales) - 1)];
    if (rng_chance(r, 0.2)) s->scale = &c->scale;
    else s->logits = shared ? NORMAL : (logits)(rng_chance(r, 0.5) ? NORMAL : rng_between(r, NORMAL, SUBNORMAL));
    if (rng_chance(r, 0.2)) s->softcap = softcaps[rng_between(r, 0, COUNT(softcaps) - 1)];
    s->causal = rng_chance(r, 0.4);
    c->left = rng_between(r, 0, s->kv_len), c->right = rng_between(r, 0, s->kv_len);
    if (rng_chance(r, 0.2)) s->left = &c->left;
    if (rng_chance(r, 0.1)) s->right = &c->right;
    if (rng_chance(r, 0.5)) s->q_offset = rng_chance(r, 0.7) ? s->kv_len - s->q_len : rng_between(r, -20, s->kv_len);
    if (rng_chance(r, 0.2)) s->q_offset_step = rng_between(r, -20, 20);
    if (rng_chance(r, 0.4)) s->mask = (mask_kind)rng_between(r, MASK_BOOL, shared ? MASK_PREFIX : MASK_PADDING);
    if (rng_chance(r, 0.5)) s->same = (unsigned)rng_between(r, 0, 15);
    s->lens = !shared && rng_chance(r, 0.25);
    if (!shared && rng_chance(r, 0.2)) s->poison = (poison)rng_between(r, NAN_K, FIRST_MINUS_INF);
    if (s->logits != NORMAL) s->poison = NO_POISON;
    s->lse = rng_chance(r, 0.7);
    if (rng_chance(r, 0.2)) s->scores = (scores_kind)rng_between(r, RAW, SOFTMAX);
    if (rng_chance(r, 0.3))
        for (int i = 0; i < N_OPERANDS; i++) s->dtypes[i] = (mha_dtype)rng_between(r, MHA_F32, MHA_BF16);
}

static void run_seed(const char *isa, uint64_t seed) {
    fuzz_case c = {.spec = {.what = "fuzz", .seed = seed}};
    rng r = {seed};
    pick_sizes(&r, &c.spec);
    pick_options(&r, &c);
    check_case(isa, &c.spec);
}

static void fuzz(const char *isa) {
    const char *one = getenv("MHA_TEST_SEED");
    const uint64_t first = one != NULL ? strtoull(one, NULL, 10) : 0;
    const uint64_t n = one != NULL ? 1 : test_quick() ? 40 : 1500;
    for (uint64_t seed = first; seed < first + n; seed++) run_seed(isa, seed);
}

int main(void) {
    static const isa_test tests[] = {ISA_TEST(fuzz)};
    return isa_tests_run(tests, COUNT(tests));
}
