/* A program that uses an installed libmha: attention to a single key returns its value. */
#include <mha/mha.h>

#include <stdio.h>
#include <stdlib.h>

int main(void) {
    float q = 3, k = 2, v = 0.5f, out = 0;
    mha_context *context;
    mha_attention_args args;
    size_t bytes;

    if (mha_context_create(NULL, &context, NULL, 0) != MHA_OK) return 1;
    mha_attention_args_init(&args, sizeof args);
    args.batch = args.q_heads = args.kv_heads = args.q_len = args.kv_len = args.head_dim = 1;
    args.q = (mha_tensor){&q, MHA_F32, {1, 1, 1}};
    args.k = (mha_tensor){&k, MHA_F32, {1, 1, 1}};
    args.v = (mha_tensor){&v, MHA_F32, {1, 1, 1}};
    args.out = (mha_tensor){&out, MHA_F32, {1, 1, 1}};
    if (mha_attention_workspace_size(context, &args, 1, &bytes) != MHA_OK) return 2;
    void *workspace = malloc(bytes);
    const mha_status status = mha_attention(context, &args, NULL, workspace, bytes);
    printf("libmha %s, %s: %s, %g\n", mha_version(), mha_context_isa(context), mha_status_string(status), (double)out);
    free(workspace);
    mha_context_destroy(context);
    return status == MHA_OK && out == v ? 0 : 3;
}
