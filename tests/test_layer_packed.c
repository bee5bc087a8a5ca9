/* Packed memory: what mha_layer_pack did not write so is refused by name, and what it writes. */
#define _DEFAULT_SOURCE /* MAP_ANONYMOUS */
#include "context.h"
#include "isas.h"
#include "kernels.h"
#include "layer_problem.h"
#include "test.h"

#include <string.h>
#include <sys/mman.h>

/* Any change of its sizes changes the bytes. */
static const layer_spec packable = {
    .what = "packable", .q_heads = 4, .kv_heads = 2, .head_dim = 64, .q_dim = 96, .batch = 1, .q_len = 1, .kv_len = 1};

static void expect_refused(const mha_context *context, const void *packed, size_t bytes, mha_status wanted,
                           const char *what) {
    mha_layer *layer = (mha_layer *)(uintptr_t)8;
    char message[256] = "";
    const mha_status status = mha_layer_borrow(context, packed, bytes, &layer, message, sizeof message);
    if (status != wanted || layer != NULL || strstr(message, "expected") == NULL)
        fail_msg("%s: returned \"%s\", wanted \"%s\", with a sentence: \"%s\"", what, mha_status_string(status),
                 mha_status_string(wanted), message);
}

static size_t packed_size(const mha_context *context, const layer_problem *p) {
    size_t bytes = 0;
    assert_int_equal(MHA_OK, mha_layer_packed_size(context, &p->desc, &bytes, NULL, 0));
    return bytes;
}

/* Memory that mha_layer_pack did not write so. */
static void packed_memory(const char *isa) {
    mha_context *context = isa_context(isa, MHA_EXP_AUTO), *scalar = isa_context("scalar", MHA_EXP_AUTO);
    layer_problem p;
    layer_problem_make(&p, &packable, GUARD_END);
    const size_t bytes = packed_size(context, &p);
    guard packed = guard_make(bytes, GUARD_START, 0), zeros = guard_make(bytes, GUARD_START, 0);
    memset(zeros.data, 0, bytes);
    assert_int_equal(MHA_WORKSPACE_TOO_SMALL, mha_layer_pack(context, &p.desc, packed.data, bytes - 1, NULL, 0));
    assert_int_equal(MHA_INVALID_ARGUMENT, mha_layer_pack(context, &p.desc, NULL, bytes, NULL, 0));
    assert_int_equal(MHA_INVALID_ARGUMENT, mha_layer_pack(context, &p.desc, packed.data + 4, bytes, NULL, 0));
    assert_int_equal((char)0xff, packed.data[0]);
    assert_int_equal(MHA_OK, mha_layer_pack(context, &p.desc, packed.data, bytes, NULL, 0));
    expect_refused(context, NULL, bytes, MHA_INVALID_ARGUMENT, "no memory");
    expect_refused(context, packed.data + 4, bytes - 4, MHA_INVALID_ARGUMENT, "misaligned");
    expect_refused(context, packed.data, bytes - 1, MHA_INVALID_ARGUMENT, "cut off");
    expect_refused(context, packed.data, 10, MHA_INVALID_ARGUMENT, "less than a header");
    expect_refused(context, packed.data, 0, MHA_INVALID_ARGUMENT, "empty");
    expect_refused(context, zeros.data, bytes, MHA_INVALID_ARGUMENT, "zeros");
    if (strcmp(isa, "scalar") != 0) expect_refused(scalar, packed.data, bytes, MHA_UNSUPPORTED, "another isa's");
    packed.data[8] ^= 1;
    expect_refused(context, packed.data, bytes, MHA_UNSUPPORTED, "another version's");
    packed.data[8] ^= 1;
    packed.data[1] ^= 1;
    expect_refused(context, packed.data, bytes, MHA_INVALID_ARGUMENT, "wrong magic");
    guard_free(&packed);
    guard_free(&zeros);
    layer_problem_free(&p);
    mha_context_destroy(context);
    mha_context_destroy(scalar);
}

/* Builds may have the same instruction set, but not the one whose kernels do what it lacks. */
static void another_build(const char *isa) {
    mha_context *context = isa_context(isa, MHA_EXP_AUTO);
    struct mha_context other = *context;
    other.choice.kernels = kernels_of("scalar");
    layer_problem p;
    layer_problem_make(&p, &packable, GUARD_END);
    const size_t bytes = packed_size(&other, &p);
    guard packed = guard_make(bytes, GUARD_START, 0);
    assert_int_equal(MHA_OK, mha_layer_pack(&other, &p.desc, packed.data, bytes, NULL, 0));
    if (other.choice.kernels != context->choice.kernels)
        expect_refused(context, packed.data, bytes, MHA_UNSUPPORTED, "another build's");
    guard_free(&packed);
    layer_problem_free(&p);
    mha_context_destroy(context);
}

/* Weights in f32 are packed as bf16 for less than the highest precision, in one part or two, and only where such are
 * multiplied. */
static void another_precision(const char *isa) {
    static const mha_precision precisions[] = {MHA_PRECISION_HIGHEST, MHA_PRECISION_HIGH, MHA_PRECISION_MEDIUM};
    layer_problem p;
    layer_problem_make(&p, &packable, GUARD_END);
    size_t highest = 0;
    for (size_t i = 0; i < COUNT(precisions); i++)
        for (size_t j = 0; j < COUNT(precisions); j++) {
            mha_context *packer = isa_context_of(isa, MHA_EXP_AUTO, precisions[i]);
            mha_context *borrower = isa_context_of(isa, MHA_EXP_AUTO, precisions[j]);
            const size_t bytes = packed_size(packer, &p);
            const bool rounds = isa_has_bf16(isa) && precisions[i] == MHA_PRECISION_MEDIUM;
            if (i == 0) highest = bytes;
            if ((bytes < highest) != rounds)
                fail_msg("isa %s: %zu packed bytes with precision %d, %zu with the highest, wanted %s", isa, bytes,
                         (int)precisions[i], highest, rounds ? "fewer" : "the same");
            guard packed = guard_make(bytes, GUARD_START, 0);
            assert_int_equal(MHA_OK, mha_layer_pack(packer, &p.desc, packed.data, bytes, NULL, 0));
            mha_layer *layer = NULL;
            const bool two = isa_splits(isa);
            const int parts[] = {0, two ? 2 : 0, isa_has_bf16(isa) ? 1 : 0};
            if (parts[i] != parts[j])
                expect_refused(borrower, packed.data, bytes, MHA_UNSUPPORTED, "another precision's");
            else assert_int_equal(MHA_OK, mha_layer_borrow(borrower, packed.data, bytes, &layer, NULL, 0));
            mha_layer_destroy(layer);
            guard_free(&packed);
            mha_context_destroy(packer);
            mha_context_destroy(borrower);
        }
    layer_problem_free(&p);
}

/* A header of which any number was changed: refused, whatever it says. */
static void corrupt_headers(const char *isa, mha_dtype dtype) {
    enum { NAMES = 56, PARTS = 120, HEADER = 144 }; /* bytes of magic, version and isa; before the parts; of all */
    static const int64_t values[] = {0, -1, 1, 3, 33, 1 << 16, 1 << 24, INT64_C(1) << 40, INT64_MAX, INT64_MIN};
    mha_context *context = isa_context(isa, MHA_EXP_AUTO);
    layer_spec s = packable;
    for (int i = 0; i < N_WEIGHTS; i++) s.weight_dtypes[i] = dtype;
    layer_problem p;
    layer_problem_make(&p, &s, GUARD_END);
    const size_t bytes = packed_size(context, &p);
    guard packed = guard_make(bytes, GUARD_START, 0);
    assert_int_equal(MHA_OK, mha_layer_pack(context, &p.desc, packed.data, bytes, NULL, 0));
    for (size_t at = NAMES; at + 8 <= HEADER; at += 8)
        for (size_t i = 0; i < COUNT(values); i++) {
            int64_t original;
            memcpy(&original, packed.data + at, sizeof original);
            if (original == 0 || original == values[i]) continue; /* or no change */
            memcpy(packed.data + at, &values[i], sizeof original);
            mha_layer *layer; /* parts may be those of another precision */
            const mha_status other = mha_layer_borrow(context, packed.data, bytes, &layer, NULL, 0);
            const bool precision = at == PARTS && other == MHA_UNSUPPORTED;
            expect_refused(context, packed.data, bytes, precision ? other : MHA_INVALID_ARGUMENT, "corrupt header");
            memcpy(packed.data + at, &original, sizeof original);
        }
    guard_free(&packed);
    layer_problem_free(&p);
    mha_context_destroy(context);
}

static void corrupt_header(const char *isa) {
    for (mha_dtype dtype = MHA_F32; dtype <= MHA_BF16; dtype++) corrupt_headers(isa, dtype);
}

/* Names that nothing ends are cut off, not read on. */
static void endless_names(const char *isa) {
    enum { MAGIC = 8, NAMES = 48 };
    static const char wanted[] = "version xxxxxxxxxxxxxxx for \"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\"";
    static const size_t lengths[] = {NAMES, 1024 - MAGIC}; /* of the names; of all numbers as well */
    mha_context *context = isa_context(isa, MHA_EXP_AUTO);
    for (size_t i = 0; i < COUNT(lengths); i++) {
        guard packed = guard_make(1024, GUARD_START, 0);
        char message[512] = "";
        mha_layer *layer;
        memset(packed.data, 0, packed.bytes);
        memcpy(packed.data, "mhalayer", MAGIC);
        memset(packed.data + MAGIC, 'x', lengths[i]);
        const mha_status status = mha_layer_borrow(context, packed.data, packed.bytes, &layer, message, sizeof message);
        if (status != MHA_UNSUPPORTED || layer != NULL || strstr(message, wanted) == NULL)
            fail_msg("isa %s: %zu bytes 'x': returned \"%s\": \"%s\"", isa, lengths[i], mha_status_string(status),
                     message);
        guard_free(&packed);
    }
    mha_context_destroy(context);
}

/* The same bytes whatever was there before, between the parts too. */
static void same_bytes(const char *isa) {
    layer_spec s = packable;
    s.head_dim = 7, s.q_dim = 9, s.biases = BIAS_ALL;
    mha_context *context = isa_context(isa, MHA_EXP_AUTO);
    layer_problem p;
    layer_problem_make(&p, &s, GUARD_END);
    const size_t bytes = packed_size(context, &p);
    guard a = guard_make(bytes, GUARD_START, 0), b = guard_make(bytes, GUARD_START, 0);
    memset(b.data, 0x55, bytes);
    assert_int_equal(MHA_OK, mha_layer_pack(context, &p.desc, a.data, bytes, NULL, 0));
    assert_int_equal(MHA_OK, mha_layer_pack(context, &p.desc, b.data, bytes, NULL, 0));
    assert_memory_equal(a.data, b.data, bytes);
    guard_free(&a);
    guard_free(&b);
    layer_problem_free(&p);
    mha_context_destroy(context);
}

/* Weights and biases that lie where they are to be packed, from some byte on or up to one. */
static void over_weights(const char *isa) {
    layer_spec s = packable;
    s.biases = BIAS_ALL;
    mha_context *context = isa_context(isa, MHA_EXP_AUTO);
    layer_problem p;
    layer_problem_make(&p, &s, GUARD_END);
    const size_t bytes = packed_size(context, &p);
    enum { ROOM = 1 << 20 }; /* for the largest weight on either side */
    guard memory = guard_make(ROOM + bytes + ROOM, GUARD_START, 0);
    char *const packed = memory.data + ROOM;
    mha_layer_desc beside = p.desc;
    beside.wq.weight = packed + bytes;
    assert_int_equal(MHA_OK, mha_layer_pack(context, &beside, packed, bytes, NULL, 0));
    const int64_t heads = s.head_dim * s.q_heads, kv_heads = s.head_dim * s.kv_heads;
    const struct {
        size_t at;
        int64_t elements;
    } weights[] = {{offsetof(mha_layer_desc, wq.weight), heads * s.q_dim},
                   {offsetof(mha_layer_desc, wk.weight), kv_heads * s.q_dim},
                   {offsetof(mha_layer_desc, wv.weight), kv_heads * s.q_dim},
                   {offsetof(mha_layer_desc, wo.weight), s.q_dim * heads},
                   {offsetof(mha_layer_desc, wk.bias), kv_heads},
                   {offsetof(mha_layer_desc, wo.bias), s.q_dim}};
    for (size_t i = 0; i < COUNT(weights); i++) {
        const char *const within[] = {packed + bytes - sizeof(float), packed - (weights[i].elements - 1) * 4};
        for (size_t end = 0; end < COUNT(within); end++) {
            mha_layer_desc desc = p.desc;
            char message[256] = "";
            memcpy((char *)&desc + weights[i].at, &within[end], sizeof within[end]);
            if (mha_layer_pack(context, &desc, packed, bytes, message, sizeof message) != MHA_INVALID_ARGUMENT ||
                strstr(message, "packed") == NULL)
                fail_msg("isa %s: weight or bias %zu was packed over its end %zu: \"%s\"", isa, i, end, message);
        }
    }
    guard_free(&memory);
    layer_problem_free(&p);
    mha_context_destroy(context);
}

/* A layer, never written but for its header, and a batch whose workspace has more bytes than can be counted. */
static void workspace_overflow(const char *isa) {
    enum { NUMBERS = 56, BYTES = 136 }; /* where they lie in the header */
    mha_context *context = isa_context(isa, MHA_EXP_AUTO);
    layer_problem p;
    size_t bytes = 0;
    const int64_t q_heads = 8192, v_head_dim = 4096, one = 1;
    const int64_t numbers[] = {q_heads, one, one, v_head_dim, one, one, one, 0, 0};
    layer_problem_make(&p, &packable, GUARD_END);
    mha_layer_desc desc = p.desc; /* its weights are not read for their size */
    desc.q_heads = q_heads, desc.v_head_dim = v_head_dim;
    desc.kv_heads = desc.head_dim = desc.q_dim = desc.kv_dim = desc.out_dim = one;
    assert_int_equal(MHA_OK, mha_layer_packed_size(context, &desc, &bytes, NULL, 0));
    char *packed = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    assert_true(packed != MAP_FAILED);
    assert_int_equal(MHA_OK, mha_layer_pack(context, &p.desc, packed, packed_size(context, &p), NULL, 0));
    memcpy(packed + NUMBERS, numbers, sizeof numbers);
    memcpy(packed + BYTES, &bytes, sizeof bytes);
    mha_layer *layer;
    assert_int_equal(MHA_OK, mha_layer_borrow(context, packed, bytes, &layer, NULL, 0));
    mha_layer_args args;
    mha_layer_args_init(&args, sizeof args);
    args.q_len = 64, args.kv_len = 32704;
    size_t workspace;
    args.batch = 1;
    assert_int_equal(MHA_OK, mha_layer_workspace_size(layer, &args, 1, &workspace));
    for (args.batch = 1 << 17; args.batch <= 32880064; args.batch += 1 << 17)
        if (mha_layer_workspace_size(layer, &args, 1, &workspace) == MHA_OK &&
            (workspace > PTRDIFF_MAX || workspace < (size_t)args.batch << 32))
            fail_msg("isa %s: a workspace of %zu bytes for a batch of %lld", isa, workspace, (long long)args.batch);
    mha_layer_destroy(layer);
    munmap(packed, bytes);
    layer_problem_free(&p);
    mha_context_destroy(context);
}

int main(void) {
    static const isa_test tests[] = {ISA_TEST(packed_memory),  ISA_TEST(another_build),     ISA_TEST(another_precision),
                                     ISA_TEST(corrupt_header), ISA_TEST(endless_names),     ISA_TEST(same_bytes),
                                     ISA_TEST(over_weights),   ISA_TEST(workspace_overflow)};
    return isa_tests_run(tests, COUNT(tests));
}
