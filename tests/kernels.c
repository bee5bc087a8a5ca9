#include "kernels.h"
#include "test.h"

#include <string.h>

const mha_kernels *kernels_among(const mha_kernels *const rows[], size_t n, const char *isa) {
    for (size_t i = 0; i < n; i++)
        if (strcmp(rows[i]->isa, isa) == 0) return rows[i];
    fail_msg("kernels.inc has no row for isa %s", isa);
    return NULL;
}

const mha_kernels *kernels_of(const char *isa) {
    static const mha_kernels *const rows[] = {
#define MHA_KERNEL_ROW(isa, features) &mha_kernels_f32_##isa,
#include "kernels.inc"
    };
    return kernels_among(rows, COUNT(rows), isa);
}

const mha_gemm_kernels *gemm_kernels_of(const char *isa) {
#define MHA_BF16_ROW(name, features, pays)                                                                             \
    if (strcmp(isa, #name) == 0) return &mha_kernels_bf16_##name.gemm;
#include "kernels.inc"
    return &kernels_of(isa)->gemm;
}
