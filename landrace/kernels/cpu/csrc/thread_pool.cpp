#include "thread_pool.h"

#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#endif

namespace landrace {
namespace {

/// About 20 microseconds within a run: longer than a stage that is cut evenly leaves anybody waiting.
constexpr int kSpinsInside = 600;
/// Between runs the caller is in Python for a while.
constexpr int kSpinsBetween = 2000;

inline void pause() {
#if defined(__x86_64__) || defined(_M_X64)
    _mm_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

}  // namespace

void Gate::open() {
    generation_.fetch_add(1);
    if (sleepers_.load() > 0) {
        std::lock_guard<std::mutex> lock(mutex_);
        opened_.notify_all();
    }
}

void Gate::wait(uint32_t generation, int spins) {
    for (int i = 0; i < spins; ++i) {
        if (generation_.load(std::memory_order_acquire) != generation) return;
        pause();
    }
    std::unique_lock<std::mutex> lock(mutex_);
    sleepers_.fetch_add(1);
    opened_.wait(lock, [&] { return generation_.load() != generation; });
    sleepers_.fetch_sub(1);
}

ThreadPool::ThreadPool(int size) : claimed_(static_cast<size_t>(kStages) * static_cast<size_t>(size)) {
    for (int i = 1; i < size; ++i) workers_.push_back(std::make_unique<Worker>());
    for (int i = 1; i < size; ++i) workers_[i - 1]->thread = std::thread([this, i] { work(i); });
}

ThreadPool::~ThreadPool() {
    stopping_ = true;
    for (auto& worker : workers_) worker->start.open();
    for (auto& worker : workers_) worker->thread.join();
}

void ThreadPool::run(int n, const std::function<void(int)>& body) {
    running_ = n;
    body_ = &body;
    for (int i = 1; i < n; ++i) workers_[i - 1]->start.open();
    body(0);
    barrier();
}

void ThreadPool::next_stage() {
    // Nobody claims from the stage after next yet.
    Counter* claimed = counters(stage_ + 2);
    for (int i = 0; i < size(); ++i) claimed[i].store(0, std::memory_order_relaxed);
    ++stage_;
}

void ThreadPool::barrier() {
    // Read before arriving: once all are here, the caller may start another run with other threads.
    const int running = running_;
    if (running == 1) {
        next_stage();
        return;
    }
    const uint32_t generation = passed_.generation();
    if (arrived_.fetch_add(1) + 1 == running) {
        next_stage();
        arrived_.store(0);
        passed_.open();
    } else {
        passed_.wait(generation, kSpinsInside);
    }
}

void ThreadPool::work(int index) {
    Gate& start = workers_[index - 1]->start;
    for (uint32_t generation = 0;; ++generation) {
        start.wait(generation, kSpinsBetween);
        if (stopping_) return;
        (*body_)(index);
        barrier();
    }
}

}  // namespace landrace
