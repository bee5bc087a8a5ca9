/* What the entry points share: the context, sentences about bad arguments, and the reading of growing structs. */
#ifndef MHA_CONTEXT_H
#define MHA_CONTEXT_H

#include "kernel.h"

struct mha_context {
    const mha_kernels *kernels;
    int exp; /* index into pairs of kernels: 0 SLEEF, 1 fused */
    mha_allocator allocator;
};

/* Where a sentence goes; text may be NULL. */
typedef struct mha_message {
    char *text;
    size_t bytes;
} mha_message;

/* Writes the sentence and returns the status. */
#if defined(__GNUC__)
__attribute__((format(printf, 3, 4)))
#endif
mha_status mha_fail(mha_message message, mha_status status, const char *format, ...);

/* Empties the message and returns MHA_OK. */
mha_status mha_succeed(mha_message message);

/* Copies what the caller's struct has into *known, which holds the defaults.  Both open with size_t struct_size. */
mha_status mha_read_struct(void *known, size_t known_bytes, const void *given, const char *name, mha_message message);

/* Writes the defaults into as much as the caller's struct has, zeros into the rest. */
void mha_init_struct(void *given, size_t given_bytes, const void *defaults, size_t default_bytes);

/* Runs tasks on the executor, or on the calling thread if it is NULL. */
void mha_parallel_for(const mha_executor *executor, size_t n_tasks, mha_task *task, void *closure);

#endif
