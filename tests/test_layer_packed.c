/* Packed memory that mha_layer_pack did not write so is refused by name. */
#include "isas.h"
#include "layer_problem.h"
#include "test.h"

#include <string.h>

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

/* Memory that mha_layer_pack did not write so. */
static void packed_memory(const char *isa) {
    mha_context *context = isa_context(isa, MHA_EXP_AUTO), *scalar = isa_context("scalar", MHA_EXP_AUTO);
    layer_problem p;
    size_t bytes = 0;
    layer_problem_make(&p, &packable, GUARD_END);
    assert_int_equal(MHA_OK, mha_layer_packed_size(context, &p.desc, &bytes, NULL, 0));
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

/* A header of which any number was changed: refused, whatever it says. */
static void corrupt_header(const char *isa) {
    enum { NAMES = 40, HEADER = 128 }; /* bytes of magic, version and isa; of all with padding */
    static const int64_t values[] = {0, -1, 1, 3, 33, 1 << 16, 1 << 24, INT64_C(1) << 40, INT64_MAX, INT64_MIN};
    mha_context *context = isa_context(isa, MHA_EXP_AUTO);
    layer_problem p;
    size_t bytes = 0;
    layer_problem_make(&p, &packable, GUARD_END);
    assert_int_equal(MHA_OK, mha_layer_packed_size(context, &p.desc, &bytes, NULL, 0));
    guard packed = guard_make(bytes, GUARD_START, 0);
    assert_int_equal(MHA_OK, mha_layer_pack(context, &p.desc, packed.data, bytes, NULL, 0));
    for (size_t at = NAMES; at + 8 <= HEADER; at += 8)
        for (size_t i = 0; i < COUNT(values); i++) {
            int64_t original;
            memcpy(&original, packed.data + at, sizeof original);
            if (original == 0 || original == values[i]) continue; /* padding, or no change */
            memcpy(packed.data + at, &values[i], sizeof original);
            expect_refused(context, packed.data, bytes, MHA_INVALID_ARGUMENT, "corrupt header");
            memcpy(packed.data + at, &original, sizeof original);
        }
    guard_free(&packed);
    layer_problem_free(&p);
    mha_context_destroy(context);
}

/* Names that nothing ends are cut off, not read on. */
static void endless_names(const char *isa) {
    enum { MAGIC = 8, NAMES = 32 };
    static const char wanted[] = "version xxxxxxxxxxxxxxx for \"xxxxxxxxxxxxxxx\"";
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

int main(void) {
    static const isa_test tests[] = {ISA_TEST(packed_memory), ISA_TEST(corrupt_header), ISA_TEST(endless_names)};
    return isa_tests_run(tests, COUNT(tests));
}
