#include "threads.h"

#define MHA_WITH_PTHREADPOOL
#include "mha/threads.h"

#include <dlfcn.h>
#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>
#include <new>

namespace mha_python {

namespace {

// Pools live as long as the process: a call may use one while another thread asks for a different number.
struct Pools {
    std::mutex mutex;
    std::map<size_t, pthreadpool_t> by_size;
};

Pools &pools() {
    static Pools *const instance = new Pools; // never destroyed: daemon threads may outlive static objects
    return *instance;
}

// The entry to a parallel region of GNU's OpenMP runtime, which LLVM's and Intel's have as well.
using ParallelRegion = void (*)(void (*work)(void *), void *data, unsigned threads, unsigned flags);

std::atomic<ParallelRegion> openmp{nullptr}; // nullptr: calls use a pool

// A child has none of its parent's threads, so it forgets the pools, whose memory cannot be given back, because another
// thread may have been inside one at the fork; and OpenMP, which would wait for its threads.
void watch_fork() {
    static std::once_flag watched;
    std::call_once(watched, [] {
        pthread_atfork([] { pools().mutex.lock(); }, [] { pools().mutex.unlock(); },
                       [] {
                           pools().by_size.clear();
                           pools().mutex.unlock();
                           openmp = nullptr;
                       });
    });
}

pthreadpool_t pool(size_t threads) {
    watch_fork();
    const std::lock_guard<std::mutex> lock(pools().mutex);
    pthreadpool_t &pool = pools().by_size[threads];
    if (pool == nullptr) pool = pthreadpool_create(threads);
    if (pool == nullptr) throw std::bad_alloc();
    return pool;
}

struct Region {
    mha_pthreadpool_job job;
    std::atomic<size_t> workers;
};

// A region of as many threads as `user` says, or fewer.
void parallel_region(void *user, size_t n_tasks, mha_task *task, void *closure) {
    Region region = {{task, closure, n_tasks, 0}, {0}};
    const auto work = [](void *data) {
        auto *const shared = static_cast<Region *>(data);
        mha_pthreadpool_work(&shared->job, shared->workers++);
    };
    const auto threads = static_cast<unsigned>(std::min(n_tasks, reinterpret_cast<size_t>(user)));
    openmp.load()(work, &region, threads, 0);
}

// As mha_pthreadpool_parallel_for, but workers sleep when they are done: spinning, which is faster from call to call,
// keeps them from the threads of NumPy in between.
void parallel_for(void *user, size_t n_tasks, mha_task *task, void *closure) {
    const auto pool = static_cast<pthreadpool_t>(user);
    const size_t n_threads = pthreadpool_get_threads_count(pool);
    mha_pthreadpool_job job = {task, closure, n_tasks, 0};
    pthreadpool_parallelize_1d(pool, mha_pthreadpool_work, &job, std::min(n_tasks, n_threads),
                               PTHREADPOOL_FLAG_YIELD_WORKERS);
}

struct Free {
    void operator()(void *memory) const { std::free(memory); }
};

struct Workspace {
    std::unique_ptr<void, Free> memory;
    size_t bytes = 0;
};

} // namespace

mha_executor executor(size_t threads) {
    if (threads > 1 && openmp != nullptr) return {threads, parallel_region, reinterpret_cast<void *>(threads)};
    return {threads, parallel_for, threads > 1 ? pool(threads) : nullptr};
}

bool share_openmp() {
    watch_fork();
    openmp = reinterpret_cast<ParallelRegion>(dlsym(RTLD_DEFAULT, "GOMP_parallel"));
    return openmp != nullptr;
}

void *workspace(size_t bytes) {
    static thread_local Workspace own;
    if (bytes > own.bytes) {
        own = {}; // before the larger one is asked for
        const size_t page = 4096;
        const size_t rounded = (bytes + page - 1) / page * page;
        own.memory.reset(std::aligned_alloc(page, rounded));
        if (!own.memory) throw std::bad_alloc();
        own.bytes = rounded;
    }
    return own.memory.get();
}

} // namespace mha_python
