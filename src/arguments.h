/* Reading what the caller passed: growing structs, and sentences about what is wrong. */
#ifndef MHA_ARGUMENTS_H
#define MHA_ARGUMENTS_H

#include "mha/mha.h"

/* Where a sentence goes; text may be NULL. */
typedef struct mha_message {
    char *text;
    size_t bytes;
} mha_message;

/* Writes the sentence and returns the status. */
#if defined(__GNUC__)
__attribute__((format(printf, 3, 4)))
#endif
mha_status
mha_say(mha_message message, mha_status status, const char *format, ...);

/* Empties the message and returns MHA_OK. */
mha_status mha_succeed(mha_message message);

#define TRY(expression)                                                                                                \
    do {                                                                                                               \
        const mha_status status_ = (expression);                                                                       \
        if (status_ != MHA_OK) return status_;                                                                         \
    } while (0)

/* Copies what the caller's struct has into *known, which holds the defaults.  Both open with size_t struct_size. */
mha_status mha_read_struct(void *known, size_t known_bytes, const void *given, const char *name, mha_message message);

/* Writes the defaults into as much as the caller's struct has, zeros into the rest. */
void mha_init_struct(void *given, size_t given_bytes, const void *defaults, size_t default_bytes);

mha_status mha_check_range(const char *name, int64_t value, int64_t low, int64_t high, mha_message message);
typedef enum mha_dtypes { MHA_FLOATS, MHA_FLOATS_AND_BOOL } mha_dtypes;

mha_status mha_check_dtype(const char *name, mha_dtype dtype, mha_dtypes allowed, mha_message message);
mha_status mha_check_heads(int64_t q_heads, int64_t kv_heads, int64_t head_dim, int64_t v_head_dim,
                           mha_message message);
mha_status mha_check_n_workers(size_t n_workers, mha_message message);
mha_status mha_check_executor(const mha_executor *executor, mha_message message);
mha_status mha_check_workspace(const void *workspace, size_t bytes, size_t needed, mha_message message);

#endif
