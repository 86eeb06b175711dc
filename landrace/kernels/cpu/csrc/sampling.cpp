#include "sampling.h"

#include <algorithm>
#include <exception>
#include <mutex>

namespace landrace {

namespace {

/// Logits that are worth waking a thread for.
constexpr int64_t kLogitsPerThread = 1 << 18;

}  // namespace

std::vector<int64_t> choose_tokens(ThreadPool& pool, int threads, ChooseRow choose, const std::vector<RowChoice>& rows, int64_t vocab) {
    const auto n = static_cast<int>(rows.size());
    std::vector<int64_t> tokens(rows.size());
    const int64_t useful = std::clamp<int64_t>(static_cast<int64_t>(n) * vocab / kLogitsPerThread, 1, std::max<int64_t>(n, 1));
    std::mutex mutex;
    std::exception_ptr failure;
    pool.run(static_cast<int>(std::min<int64_t>({useful, threads, pool.size()})), [&](int thread) {
        try {
            SamplingScratch scratch;
            for (int i; (i = pool.claim(thread, n)) < n;) {
                const RowChoice& row = rows[static_cast<size_t>(i)];
                tokens[static_cast<size_t>(i)] = choose(row, vocab, scratch);
            }
        } catch (...) {
            std::lock_guard<std::mutex> lock(mutex);
            failure = std::current_exception();
        }
    });
    if (failure) std::rethrow_exception(failure);
    return tokens;
}

}  // namespace landrace
