#include "arguments.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

mha_status mha_say(mha_message message, mha_status status, const char *format, ...) {
    if (message.text == NULL) return status;
    va_list values;
    va_start(values, format);
    vsnprintf(message.text, message.bytes, format, values);
    va_end(values);
    return status;
}

mha_status mha_succeed(mha_message message) {
    if (message.text != NULL && message.bytes > 0) message.text[0] = '\0';
    return MHA_OK;
}

mha_status mha_read_struct(void *known, size_t known_bytes, const void *given, const char *name, mha_message message) {
    if (given == NULL) return mha_say(message, MHA_INVALID_ARGUMENT, "%s is NULL, expected a struct", name);
    size_t given_bytes;
    memcpy(&given_bytes, given, sizeof given_bytes);
    const size_t most = 4096; /* a size beyond it was never set, and must not be read */
    if (given_bytes < sizeof given_bytes || given_bytes > most)
        return mha_say(message, MHA_INVALID_ARGUMENT, "%s.struct_size is %zu, expected sizeof(%s) as %s_init sets it",
                       name, given_bytes, name, name);
    for (size_t i = known_bytes; i < given_bytes; i++)
        if (((const char *)given)[i] != 0)
            return mha_say(message, MHA_UNSUPPORTED,
                           "%s.struct_size is %zu and byte %zu is not zero, expected zeros beyond the %zu bytes that "
                           "version %s knows: the feature is newer than this library",
                           name, given_bytes, i, known_bytes, mha_version());
    memcpy(known, given, given_bytes < known_bytes ? given_bytes : known_bytes);
    memcpy(known, &known_bytes, sizeof known_bytes);
    return MHA_OK;
}

void mha_init_struct(void *given, size_t given_bytes, const void *defaults, size_t default_bytes) {
    memset(given, 0, given_bytes);
    memcpy(given, defaults, given_bytes < default_bytes ? given_bytes : default_bytes);
    if (given_bytes >= sizeof given_bytes) memcpy(given, &given_bytes, sizeof given_bytes);
}

mha_status mha_check_range(const char *name, int64_t value, int64_t low, int64_t high, mha_message message) {
    if (value >= low && value <= high) return MHA_OK;
    return mha_say(message, MHA_INVALID_ARGUMENT, "%s is %" PRId64 ", expected %" PRId64 " to %" PRId64, name, value,
                   low, high);
}

mha_status mha_check_dtype(const char *name, mha_dtype dtype, mha_dtypes allowed, mha_message message) {
    static const char *const expected[] = {"MHA_F32, MHA_F16 or MHA_BF16", "MHA_F32, MHA_F16, MHA_BF16 or MHA_BOOL"};
    if (dtype == MHA_F32 || dtype == MHA_F16 || dtype == MHA_BF16) return MHA_OK;
    if (dtype == MHA_BOOL && allowed == MHA_FLOATS_AND_BOOL) return MHA_OK;
    return mha_say(message, MHA_INVALID_ARGUMENT, "%s.dtype is %d, expected %s", name, (int)dtype, expected[allowed]);
}

mha_status mha_check_heads(int64_t q_heads, int64_t kv_heads, int64_t head_dim, int64_t v_head_dim,
                           mha_message message) {
    const int64_t most_heads = 1 << 24, most_dim = 1 << 16;
    TRY(mha_check_range("q_heads", q_heads, 1, most_heads, message));
    TRY(mha_check_range("kv_heads", kv_heads, 1, most_heads, message));
    TRY(mha_check_range("head_dim", head_dim, 1, most_dim, message));
    TRY(mha_check_range("v_head_dim", v_head_dim, 1, most_dim, message));
    if (q_heads % kv_heads == 0) return MHA_OK;
    return mha_say(message, MHA_INVALID_ARGUMENT, "q_heads is %" PRId64 ", expected a multiple of kv_heads, %" PRId64,
                   q_heads, kv_heads);
}

mha_status mha_check_n_workers(size_t n_workers, mha_message message) {
    const size_t most = 1 << 16;
    if (n_workers >= 1 && n_workers <= most) return MHA_OK;
    return mha_say(message, MHA_INVALID_ARGUMENT, "n_workers is %zu, expected 1 to %zu", n_workers, most);
}

mha_status mha_check_executor(const mha_executor *executor, mha_message message) {
    if (executor == NULL) return MHA_OK;
    TRY(mha_check_n_workers(executor->n_workers, message));
    if (executor->n_workers > 1 && executor->parallel_for == NULL)
        return mha_say(message, MHA_INVALID_ARGUMENT, "executor.parallel_for is NULL, expected a function");
    return MHA_OK;
}

mha_status mha_check_workspace(const void *workspace, size_t bytes, size_t needed, mha_message message) {
    if (workspace == NULL)
        return mha_say(message, MHA_INVALID_ARGUMENT, "workspace is NULL, expected %zu bytes", needed);
    if (bytes < needed)
        return mha_say(message, MHA_WORKSPACE_TOO_SMALL, "workspace_bytes is %zu, expected at least %zu", bytes,
                       needed);
    return MHA_OK;
}
