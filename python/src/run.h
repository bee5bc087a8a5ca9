// A call of the library: workspace, threads, the GIL, the error.
#pragma once

#include "arrays.h"
#include "threads.h"

#include <unistd.h>

namespace mha_python {

// The functions of an operation; Object is a context or a layer.
template <class Object, class Args> struct Operation {
    mha_status (*workspace_size)(const Object *, const Args *, size_t n_workers, size_t *bytes);
    mha_status (*compute)(const Object *, const Args *, const mha_executor *, void *workspace, size_t bytes);
    mha_status (*check)(const Object *, const Args *, const mha_executor *, const void *workspace, size_t bytes,
                        char *sentence, size_t sentence_bytes);
};

// Gives up the GIL for a scope.  Python before 3.14 ends a thread that asks for it back while it is finalizing:
// pthread_exit unwinds the stack, which aborts the process in a destructor.  Such a thread sleeps instead.
class WithoutGil {
  public:
    WithoutGil() = default;
    WithoutGil(const WithoutGil &) = delete;
    WithoutGil &operator=(const WithoutGil &) = delete;
    ~WithoutGil() {
        try {
            PyEval_RestoreThread(state_);
        } catch (...) { // nothing that is thrown: asking beforehand whether Python finalizes would leave a race
            for (;;) pause();
        }
    }

  private:
    PyThreadState *const state_ = PyEval_SaveThread();
};

template <class Object, class Args>
void run(const Operation<Object, Args> &operation, const Object *object, const Args &args, size_t threads) {
    char sentence[512] = "";
    mha_status status;
    {
        const WithoutGil without_gil;
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
