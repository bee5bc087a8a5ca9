// A call of the library: workspace, threads, the GIL, the error.
#pragma once

#include "arrays.h"
#include "threads.h"

namespace mha_python {

// The functions of an operation; Object is a context or a layer.
template <class Object, class Args> struct Operation {
    mha_status (*workspace_size)(const Object *, const Args *, size_t n_workers, size_t *bytes);
    mha_status (*compute)(const Object *, const Args *, const mha_executor *, void *workspace, size_t bytes);
    mha_status (*check)(const Object *, const Args *, const mha_executor *, const void *workspace, size_t bytes,
                        char *sentence, size_t sentence_bytes);
};

template <class Object, class Args>
void run(const Operation<Object, Args> &operation, const Object *object, const Args &args, size_t threads) {
    char sentence[512] = "";
    mha_status status;
    {
        const nb::gil_scoped_release release;
        const mha_executor workers = executor(threads);
        size_t bytes = 0;
        void *memory = nullptr;
        status = operation.workspace_size(object, &args, workers.n_workers, &bytes);
        if (status == MHA_OK) {
            memory = workspace(bytes);
            status = operation.compute(object, &args, &workers, memory, bytes);
        }
        if (status != MHA_OK) operation.check(object, &args, &workers, memory, bytes, sentence, sizeof sentence);
    }
    if (status != MHA_OK) raise_status(status, sentence);
}

} // namespace mha_python
