/* Every size and every tail: head_dim, v_head_dim, q_len, kv_len, heads that share a KV head, batch. */
#include "check.h"
#include "isas.h"
#include "test.h"

static const spec base = {
    .batch = 1, .q_heads = 2, .kv_heads = 1, .q_len = 5, .kv_len = 19, .head_dim = 16, .lse = true};

static void head_dims(const char *isa) {
    static const int16_t more[] = {40, 48, 63, 64, 65, 80, 96, 127, 128, 129, 192, 256, 257, 512, 576};
    for (int64_t i = 0; i < 33 + (int64_t)COUNT(more); i++) {
        spec s = base;
        s.what = "head_dim";
        s.head_dim = i < 33 ? i + 1 : more[i - 33];
        s.seed = (uint64_t)i;
        check_cases(isa, &s, 1);
        s.what = "head_dim, decode";
        s.q_len = 1;
        check_cases(isa, &s, 1);
    }
}

static void v_head_dims(const char *isa) {
    static const int16_t dims[][2] = {{1, 2},   {2, 1},   {8, 7},     {16, 33},   {17, 64},   {64, 1},  {64, 80},
                                      {65, 63}, {96, 48}, {192, 128}, {128, 192}, {576, 512}, {3, 576}, {257, 129}};
    for (size_t i = 0; i < COUNT(dims); i++) {
        spec s = base;
        s.what = "v_head_dim";
        s.head_dim = dims[i][0], s.v_head_dim = dims[i][1];
        s.seed = i;
        check_cases(isa, &s, 1);
        s.q_len = 1;
        check_cases(isa, &s, 1);
    }
}

static void q_lens(const char *isa) {
    static const int16_t lens[] = {0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  11, 12, 13, 15,  16,  17,  23, 24,
                                   25, 31, 32, 33, 47, 48, 49, 63, 64, 65, 95, 96, 97, 127, 200, 385, 800};
    for (size_t i = 0; i < COUNT(lens); i++) {
        spec s = base;
        s.what = "q_len";
        s.q_len = lens[i];
        s.q_heads = 1;
        s.seed = i;
        check_cases(isa, &s, 1);
        s.what = "q_len, causal";
        s.causal = true;
        s.kv_len = lens[i];
        check_cases(isa, &s, 1);
    }
}

static void kv_lens(const char *isa) {
    static const int16_t lens[] = {0,   1,   2,   3,   4,   7,   8,   15,  16,   17,   31,   32,   33,   63,
                                   64,  65,  95,  96,  97,  127, 128, 129, 191,  192,  193,  255,  256,  257,
                                   383, 384, 385, 511, 512, 513, 767, 769, 1000, 1023, 1024, 1025, 2049, 4097};
    for (size_t i = 0; i < COUNT(lens); i++) {
        spec s = base;
        s.what = "kv_len";
        s.kv_len = lens[i];
        s.head_dim = 12;
        s.seed = i;
        check_cases(isa, &s, 1);
        s.what = "kv_len, decode";
        s.q_len = 1;
        check_cases(isa, &s, 1);
        s.what = "kv_len, rising scores";
        s.logits = RISING;
        check_cases(isa, &s, 1);
    }
}

static void heads(const char *isa) {
    static const int8_t counts[][2] = {{1, 1}, {2, 2}, {3, 3},  {2, 1}, {6, 2},  {3, 1},
                                       {4, 1}, {7, 1}, {14, 2}, {8, 1}, {32, 4}, {32, 1}};
    static const int16_t q_lens[] = {1, 2, 3, 4, 5, 9, 13, 33};
    for (size_t i = 0; i < COUNT(counts); i++)
        for (size_t j = 0; j < COUNT(q_lens); j++) {
            spec s = base;
            s.what = "heads";
            s.q_heads = counts[i][0], s.kv_heads = counts[i][1];
            s.q_len = q_lens[j];
            s.kv_len = 37;
            s.causal = true;
            s.q_offset = 37 - s.q_len;
            s.seed = i * 8 + j;
            check_cases(isa, &s, 1);
        }
}

static void batches(const char *isa) {
    for (int64_t batch = 0; batch <= 3; batch++) {
        spec s = base;
        s.what = "batch";
        s.batch = batch;
        s.q_heads = 6, s.kv_heads = 3;
        s.seed = (uint64_t)batch;
        check_cases(isa, &s, 1);
        s.kv_len = 0;
        check_cases(isa, &s, 1);
        s.q_len = 0;
        check_cases(isa, &s, 1);
    }
}

/* Few queries over many keys: splits and their merge, every exponential in play. */
static void splits(const char *isa) {
    const spec cases[] = {
        {.what = "decode 1000", .batch = 2, .q_heads = 4, .kv_heads = 2, .q_len = 1, .kv_len = 1000, .head_dim = 64},
        {.what = "decode 4097", .batch = 1, .q_heads = 4, .kv_heads = 1, .q_len = 1, .kv_len = 4097, .head_dim = 33},
        {.what = "rising",
         .batch = 1,
         .q_heads = 2,
         .kv_heads = 1,
         .q_len = 1,
         .kv_len = 3000,
         .head_dim = 16,
         .logits = RISING},
        {.what = "falling",
         .batch = 1,
         .q_heads = 2,
         .kv_heads = 1,
         .q_len = 3,
         .kv_len = 3000,
         .head_dim = 16,
         .logits = FALLING},
        {.what = "spike",
         .batch = 3,
         .q_heads = 2,
         .kv_heads = 1,
         .q_len = 2,
         .kv_len = 2500,
         .head_dim = 16,
         .logits = SPIKE},
        {.what = "lengths",
         .batch = 4,
         .q_heads = 3,
         .kv_heads = 1,
         .q_len = 1,
         .kv_len = 2100,
         .head_dim = 16,
         .lens = true},
        {.what = "few queries",
         .batch = 1,
         .q_heads = 2,
         .kv_heads = 1,
         .q_len = 40,
         .kv_len = 1700,
         .head_dim = 16,
         .causal = true,
         .q_offset = 1660},
        {.what = "window",
         .batch = 1,
         .q_heads = 2,
         .kv_heads = 2,
         .q_len = 4,
         .kv_len = 3000,
         .head_dim = 8,
         .causal = true,
         .left = KEYS(100),
         .q_offset = 1500},
        {.what = "first splits out of sight",
         .batch = 1,
         .q_heads = 1,
         .kv_heads = 1,
         .q_len = 1,
         .kv_len = 2000,
         .head_dim = 8,
         .left = KEYS(10),
         .q_offset = 1999},
        {.what = "last splits out of sight",
         .batch = 1,
         .q_heads = 1,
         .kv_heads = 1,
         .q_len = 1,
         .kv_len = 2000,
         .head_dim = 8,
         .causal = true,
         .q_offset = 5},
        {.what = "all out of sight",
         .batch = 1,
         .q_heads = 1,
         .kv_heads = 1,
         .q_len = 1,
         .kv_len = 2000,
         .head_dim = 8,
         .causal = true,
         .q_offset = -5},
        {.what = "bias",
         .batch = 1,
         .q_heads = 2,
         .kv_heads = 1,
         .q_len = 3,
         .kv_len = 1500,
         .head_dim = 16,
         .mask = MASK_MINUS_INF},
        {.what = "100",
         .batch = 1,
         .q_heads = 2,
         .kv_heads = 1,
         .q_len = 1,
         .kv_len = 1500,
         .head_dim = 16,
         .logits = PLUS_100},
        {.what = "-100",
         .batch = 1,
         .q_heads = 2,
         .kv_heads = 1,
         .q_len = 1,
         .kv_len = 1500,
         .head_dim = 16,
         .logits = MINUS_100},
        {.what = "long", .batch = 1, .q_heads = 1, .kv_heads = 1, .q_len = 1, .kv_len = 40000, .head_dim = 4},
        {.what = "weights",
         .batch = 1,
         .q_heads = 2,
         .kv_heads = 1,
         .q_len = 1,
         .kv_len = 1500,
         .head_dim = 16,
         .scores = SOFTMAX},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        spec s = cases[i];
        s.lse = true;
        s.seed = i;
        check_cases(isa, &s, 1);
    }
}

static void split_tails(const char *isa) {
    for (int64_t dim = 1; dim <= 70; dim++) {
        spec s = base;
        s.what = "splits, v_head_dim";
        s.q_len = dim % 5 + 1, s.kv_len = 1030 + dim, s.head_dim = 5, s.v_head_dim = dim;
        s.seed = (uint64_t)dim;
        check_cases(isa, &s, 1);
    }
}

int main(void) {
    static const isa_test tests[] = {ISA_TEST(split_tails), ISA_TEST(head_dims), ISA_TEST(v_head_dims),
                                     ISA_TEST(q_lens),      ISA_TEST(kv_lens),   ISA_TEST(heads),
                                     ISA_TEST(batches),     ISA_TEST(splits)};
    return isa_tests_run(tests, COUNT(tests));
}
