// The threads and the workspace of a call.
#pragma once

#include "mha/mha.h"

#include <cstddef>

namespace mha_python {

// An executor of `threads` >= 1 threads, the caller's among them.  Its pool is shared by all calls with that number,
// which wait for each other; one thread needs no pool, so that calls with threads=1 run side by side.
mha_executor executor(size_t threads);

// From now on calls run on the threads of the OpenMP runtime that the process has loaded; false if it has none.  For where another
// library keeps these spinning between its calls: threads of a pool would have to share the cores with them.  A forked
// child uses pools again.
bool share_openmp();

// At least `bytes` bytes that belong to the calling thread: they last until its next call, and are reused by it.
void *workspace(size_t bytes);

} // namespace mha_python
