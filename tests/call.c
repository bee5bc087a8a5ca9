#include "call.h"
#include "test.h"

mha_status call_in(const mha_context *context, const mha_attention_args *args, void *workspace, size_t bytes,
                   char message[256]) {
    message[0] = '\0';
    const mha_status status = mha_attention_check(context, args, NULL, workspace, bytes, message, 256);
    assert_int_equal(status, mha_attention(context, args, NULL, workspace, bytes));
    return status;
}

mha_status call(const mha_context *context, const mha_attention_args *args, char message[256]) {
    static char workspace[4 << 20];
    return call_in(context, args, workspace, sizeof workspace, message);
}
