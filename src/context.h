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
mha_status
mha_fail(mha_message message, mha_status status, const char *format, ...);

/* Empties the message and returns MHA_OK. */
mha_status mha_succeed(mha_message message);

/* Copies what the caller's struct has into *known, which holds the defaults.  Both open with size_t struct_size. */
mha_status mha_read_struct(void *known, size_t known_bytes, const void *given, const char *name, mha_message message);

/* Writes the defaults into as much as the caller's struct has, zeros into the rest. */
void mha_init_struct(void *given, size_t given_bytes, const void *defaults, size_t default_bytes);

#define TRY(expression)                                                                                                \
    do {                                                                                                               \
        const mha_status status_ = (expression);                                                                       \
        if (status_ != MHA_OK) return status_;                                                                         \
    } while (0)

mha_status mha_check_range(const char *name, int64_t value, int64_t low, int64_t high, mha_message message);
mha_status mha_check_dtype(const char *name, mha_dtype dtype, bool mask, mha_message message);
mha_status mha_check_n_workers(size_t n_workers, mha_message message);
mha_status mha_check_executor(const mha_executor *executor, mha_message message);
mha_status mha_check_workspace(const void *workspace, size_t bytes, size_t needed, mha_message message);

static inline size_t mha_n_workers(const mha_executor *executor) { return executor != NULL ? executor->n_workers : 1; }

static inline size_t mha_align_up(size_t bytes) { return (bytes + MHA_ALIGN - 1) / MHA_ALIGN * MHA_ALIGN; }

/* A workspace may have any alignment; its size has room for this. */
static inline char *mha_align_pointer(void *memory) {
    return (char *)memory + (mha_align_up((uintptr_t)memory) - (uintptr_t)memory);
}

/* Runs tasks on the executor, or on the calling thread if it is NULL. */
void mha_parallel_for(const mha_executor *executor, size_t n_tasks, mha_task *task, void *closure);

#endif
