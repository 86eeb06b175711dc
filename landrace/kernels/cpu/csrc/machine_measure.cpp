#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <new>
#include <thread>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "machine.h"

namespace landrace {
namespace {

using Clock = std::chrono::steady_clock;

double seconds(Clock::duration duration) { return std::chrono::duration<double>(duration).count(); }

// Lets go of all threads at once, as often as asked.
class Gate {
public:
    explicit Gate(int threads) : threads_(threads) {}

    // False when the measurement is off, because not every thread could be started.
    bool pass() {
        std::unique_lock<std::mutex> lock(mutex_);
        const uint64_t turn = turn_;
        if (++waiting_ == threads_) {
            waiting_ = 0;
            ++turn_;
            opened_.notify_all();
        } else {
            opened_.wait(lock, [&] { return off_ || turn_ != turn; });
        }
        return !off_;
    }

    void call_off() {
        const std::lock_guard<std::mutex> lock(mutex_);
        off_ = true;
        opened_.notify_all();
    }

private:
    std::mutex mutex_;
    std::condition_variable opened_;
    const int threads_;
    int waiting_ = 0;
    uint64_t turn_ = 0;
    bool off_ = false;
};

// The seconds of each pass, from the first thread's start to the last one's end. `work` gets the thread's number.
std::vector<double> time_passes(int threads, int passes, const std::function<void(int)>& work) {
    std::vector<std::vector<Clock::time_point>> starts(threads), ends(threads);
    Gate gate(threads);
    const auto run = [&](int thread) {
        for (int pass = 0; pass < passes && gate.pass(); ++pass) {
            starts[thread].push_back(Clock::now());
            work(thread);
            ends[thread].push_back(Clock::now());
        }
    };
    for (int thread = 0; thread < threads; ++thread) {
        starts[thread].reserve(passes);
        ends[thread].reserve(passes);
    }
    std::vector<std::thread> running;
    try {
        for (int thread = 1; thread < threads; ++thread) running.emplace_back(run, thread);
    } catch (...) {
        gate.call_off();
        for (std::thread& thread : running) thread.join();
        throw;
    }
    run(0);
    for (std::thread& thread : running) thread.join();

    std::vector<double> taken(passes);
    for (int pass = 0; pass < passes; ++pass) {
        Clock::time_point first = starts[0][pass], last = ends[0][pass];
        for (int thread = 1; thread < threads; ++thread) {
            first = std::min(first, starts[thread][pass]);
            last = std::max(last, ends[thread][pass]);
        }
        taken[pass] = seconds(last - first);
    }
    return taken;
}

struct Free {
    void operator()(uint64_t* memory) const { std::free(memory); }
};

// In large pages where the system has them: what is measured is the memory, not the walk through page tables.
std::unique_ptr<uint64_t, Free> allocate(size_t bytes) {
    constexpr size_t kLargePage = size_t{1} << 21;
    const size_t rounded = (bytes + kLargePage - 1) / kLargePage * kLargePage;
    std::unique_ptr<uint64_t, Free> memory(static_cast<uint64_t*>(std::aligned_alloc(kLargePage, rounded)));
    if (!memory) throw std::bad_alloc();
#if defined(__linux__)
    madvise(memory.get(), rounded, MADV_HUGEPAGE);
#endif
    return memory;
}

// Rounds of `loop` that take about a fortieth of a second.
uint64_t rounds_of_a_pass(const PeakLoop& loop) {
    constexpr double kSeconds = 0.025;
    uint64_t rounds = 1024;
    for (;; rounds *= 4) {
        const Clock::time_point start = Clock::now();
        volatile double total = loop.run(rounds);
        static_cast<void>(total);
        const double taken = seconds(Clock::now() - start);
        if (taken > kSeconds / 8) return static_cast<uint64_t>(static_cast<double>(rounds) * kSeconds / taken) + 1;
    }
}

}  // namespace

std::vector<double> read_rates(const MachineLoops& loops, int threads, size_t bytes, int passes) {
    // Whole cache lines for each thread.
    const size_t part = std::max<size_t>(bytes / 64 / threads, 1) * 8;
    const std::unique_ptr<uint64_t, Free> words = allocate(part * 8 * threads);
    // Each thread writes its part first: on a machine with several memory nodes it then lies near.
    time_passes(threads, 1, [&](int thread) { std::memset(words.get() + part * thread, 1, part * 8); });

    std::vector<uint64_t> sums(threads);
    std::vector<double> rates = time_passes(
        threads, passes, [&](int thread) { sums[thread] = loops.read_sum(words.get() + part * thread, part); });
    for (double& rate : rates) rate = static_cast<double>(part * 8 * threads) / rate / 1e9;
    return rates;
}

std::vector<double> peak_rates(const PeakLoop& loop, int threads, int passes) {
    const uint64_t rounds = rounds_of_a_pass(loop);
    std::vector<double> totals(threads);
    std::vector<double> rates =
        time_passes(threads, passes, [&](int thread) { totals[thread] = loop.run(rounds); });
    for (double& rate : rates) rate = loop.operations * static_cast<double>(rounds) * threads / rate / 1e9;
    return rates;
}

}  // namespace landrace
