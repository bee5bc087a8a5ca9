// Attention in C++17: the context in a unique_ptr, errors as exceptions, and threads that belong to the program.
//
//     g++ -std=c++17 -pthread attention.cpp $(pkg-config --cflags --libs mha) && ./a.out
#include <mha/mha.h>

#include <array>
#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <iostream>
#include <memory>
#include <mutex>
#include <random>
#include <stdexcept>
#include <thread>
#include <vector>

// Threads that sleep between calls.  One call at a time; the thread that makes it is worker 0.
class Pool {
  public:
    explicit Pool(std::size_t n_threads) {
        for (std::size_t worker = 1; worker < n_threads; worker++)
            threads_.emplace_back([this, worker] { serve(worker); });
    }

    ~Pool() {
        start([this] { stopping_ = true; });
        for (auto &thread : threads_) thread.join();
    }

    mha_executor executor() { return {threads_.size() + 1, parallel_for, this}; }

  private:
    static void parallel_for(void *user, std::size_t n_tasks, mha_task *task, void *closure) {
        auto &pool = *static_cast<Pool *>(user);
        pool.start([&] {
            pool.job_ = {task, closure, n_tasks};
            pool.next_ = 0;
            pool.n_busy_ = pool.threads_.size();
            pool.n_calls_++;
        });
        pool.work(0);
        std::unique_lock lock(pool.mutex_);
        pool.done_.wait(lock, [&pool] { return pool.n_busy_ == 0; });
    }

    template <typename Change> void start(Change change) {
        const std::lock_guard lock(mutex_);
        change();
        wake_.notify_all();
    }

    // Tasks differ in length, so each worker takes the next one when it is free.
    void work(std::size_t worker) {
        for (std::size_t i = next_++; i < job_.n_tasks; i = next_++) job_.task(job_.closure, worker, i);
    }

    void serve(std::size_t worker) {
        std::unique_lock lock(mutex_);
        for (std::size_t n_served = 0;; n_served++) {
            wake_.wait(lock, [&] { return stopping_ || n_calls_ != n_served; });
            if (stopping_) return;
            lock.unlock();
            work(worker);
            lock.lock();
            if (--n_busy_ == 0) done_.notify_one();
        }
    }

    std::mutex mutex_;
    std::condition_variable wake_, done_;
    struct {
        mha_task *task;
        void *closure;
        std::size_t n_tasks;
    } job_ = {};
    std::size_t n_busy_ = 0, n_calls_ = 0;
    std::atomic<std::size_t> next_{0};
    bool stopping_ = false;
    std::vector<std::thread> threads_;
};

using Context = std::unique_ptr<mha_context, decltype(&mha_context_destroy)>;

Context make_context() {
    mha_context *context;
    std::array<char, 256> why;
    if (mha_context_create(nullptr, &context, why.data(), why.size()) != MHA_OK) throw std::runtime_error(why.data());
    return {context, mha_context_destroy};
}

void attend(const mha_context &context, const mha_attention_args &args, const mha_executor *executor) {
    std::size_t bytes = 0;
    mha_status status = mha_attention_workspace_size(&context, &args, executor ? executor->n_workers : 1, &bytes);
    std::vector<unsigned char> workspace(bytes);
    if (status == MHA_OK) status = mha_attention(&context, &args, executor, workspace.data(), bytes);
    if (status == MHA_OK) return;
    std::array<char, 256> why;
    mha_attention_check(&context, &args, executor, workspace.data(), bytes, why.data(), why.size());
    throw std::invalid_argument(why.data());
}

int main() try {
    constexpr std::int64_t heads = 12, tokens = 256, head_dim = 64;
    std::array<std::vector<float>, 3> qkv;
    std::mt19937 random(1);
    std::normal_distribution<float> normal;
    for (auto &operand : qkv)
        for (std::int64_t i = 0; i < heads * tokens * head_dim; i++) operand.push_back(normal(random));
    std::vector<float> alone(qkv[0].size()), together(qkv[0].size());

    const auto tensor = [&](std::vector<float> &x) { // [head, token, dim]
        return mha_tensor{x.data(), MHA_F32, {heads * tokens * head_dim, tokens * head_dim, head_dim}};
    };
    mha_attention_args args;
    mha_attention_args_init(&args, sizeof args);
    args.batch = 1;
    args.q_heads = args.kv_heads = heads;
    args.q_len = args.kv_len = tokens;
    args.head_dim = head_dim;
    args.q = tensor(qkv[0]);
    args.k = tensor(qkv[1]);
    args.v = tensor(qkv[2]);

    const Context context = make_context();
    args.out = tensor(alone);
    attend(*context, args, nullptr);

    Pool pool(2);
    const mha_executor executor = pool.executor();
    args.out = tensor(together);
    attend(*context, args, &executor);
    std::cout << "with " << mha_context_isa(context.get()) << " kernels, two threads give "
              << (alone == together ? "the same bits as one\n" : "other bits than one\n");

    args.kv_len = -1;
    try {
        attend(*context, args, &executor);
        return EXIT_FAILURE;
    } catch (const std::invalid_argument &error) {
        std::cout << "refused: " << error.what() << '\n';
    }
    return alone == together ? EXIT_SUCCESS : EXIT_FAILURE;
} catch (const std::exception &error) {
    std::cerr << error.what() << '\n';
    return EXIT_FAILURE;
}
