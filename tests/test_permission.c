/* AMX's tiles belong to processes that may use them: one that Linux refuses them runs on what comes next.  syscall is
 * wrapped, so that the permission can be refused here. */
#include "mha/mha.h"
#include "test.h"

#include <stdarg.h>
#include <string.h>

static bool refused;
static int asked;

long __real_syscall(long number, ...);
long __wrap_syscall(long number, ...);

/* The library's only system call: arch_prctl(code, feature). */
long __wrap_syscall(long number, ...) {
    va_list arguments;
    va_start(arguments, number);
    const long code = va_arg(arguments, int), feature = va_arg(arguments, int);
    va_end(arguments);
    asked++;
    return refused ? -1 : __real_syscall(number, code, feature);
}

static bool has_amx(void) {
    char features[256];
    mha_cpu_features(features, sizeof features);
    return strstr(features, "amx") != NULL;
}

static void refusal_falls_back(void **state) {
    (void)state;
    refused = false;
    asked = 0;
    if (!has_amx() || asked == 0) skip(); /* no AMX, or emulated */
    refused = true;
    assert_false(has_amx());
    mha_context *context = NULL;
    assert_int_equal(MHA_OK, mha_context_create(NULL, &context, NULL, 0));
    assert_string_equal("avx512",
                        mha_context_isa(context)); /* CPUs with AMX are Intel's, where avx512bf16 does not pay */
    mha_context_destroy(context);
    mha_context_options options;
    mha_context_options_init(&options, sizeof options);
    options.isa = "amx";
    assert_int_equal(MHA_UNSUPPORTED, mha_context_create(&options, &context, NULL, 0));
    refused = false;
    assert_true(has_amx());
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(refusal_falls_back)};
    return cmocka_run_group_tests_name("tiles", tests, NULL, NULL);
}
