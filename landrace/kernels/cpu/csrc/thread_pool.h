// Threads that run one function together, and the places where they wait for one another.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace landrace {

/// A place to wait for the next opening: a short spin, since the other threads are usually almost there, then sleep, since
/// on a shared machine they may not even be running.
class Gate {
public:
    uint32_t generation() const { return generation_.load(std::memory_order_acquire); }
    void open();
    /// Returns once the gate was opened after `generation` was read.
    void wait(uint32_t generation, int spins);

private:
    std::atomic<uint32_t> generation_{0};
    std::atomic<int> sleepers_{0};
    std::mutex mutex_;
    std::condition_variable opened_;
};

/// `size` threads, the caller's included.
class ThreadPool {
public:
    explicit ThreadPool(int size);
    ~ThreadPool();
    ThreadPool(const ThreadPool&) = delete;
    ThreadPool& operator=(const ThreadPool&) = delete;

    int size() const { return static_cast<int>(workers_.size()) + 1; }
    /// Calls body(0) here and body(1) to body(n - 1) on the workers; returns when all have returned. `body` must not throw.
    void run(int n, const std::function<void(int)>& body);
    /// Waits until all threads of the current run are here. Everything written before is visible after.
    void barrier();
    /// The next of the `n` pieces of the current stage for `thread`, or n when none is left. A stage ends at a barrier.
    /// Every thread starts with a range of its own, so that it walks through memory in order; one that is done with its
    /// range goes on with the others'.
    int claim(int thread, int n) {
        Counter* claimed = counters(stage_);
        for (int i = 0; i < running_; ++i) {
            const int64_t range = (thread + i) % running_;
            const int begin = static_cast<int>(n * range / running_), end = static_cast<int>(n * (range + 1) / running_);
            if (claimed[range].load(std::memory_order_relaxed) >= end - begin) continue;
            const int piece = begin + claimed[range].fetch_add(1, std::memory_order_relaxed);
            if (piece < end) return piece;
        }
        return n;
    }

private:
    static constexpr int kStages = 4;
    /// One to a cache line.
    struct alignas(64) Counter : std::atomic<int> {
        Counter() : std::atomic<int>(0) {}
    };

    struct Worker {
        Gate start;
        std::thread thread;
    };

    void work(int index);

    /// How much was claimed of every thread's range in a stage.
    Counter* counters(uint32_t stage) { return &claimed_[stage % kStages * static_cast<size_t>(size())]; }
    void next_stage();

    std::vector<Counter> claimed_;  // [kStages, size]
    alignas(64) std::atomic<int> arrived_{0};
    uint32_t stage_ = 0;  // wraps around: a multiple of kStages
    int running_ = 1;
    const std::function<void(int)>* body_ = nullptr;
    Gate passed_;
    bool stopping_ = false;
    std::vector<std::unique_ptr<Worker>> workers_;
};

}  // namespace landrace
