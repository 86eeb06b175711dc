#include "quantising.h"

#include <algorithm>
#include <atomic>

#include "packing.h"

namespace landrace {

namespace {

/// Few enough to share out the smallest matrices evenly; whole tiles of sixteen.
constexpr int64_t kBlocksPerPiece = 256;

}  // namespace

bool quantise_weights(ThreadPool& pool, const Quantisers& quantisers, Kind source, Kind target, const uint8_t* from, int64_t n_blocks, uint8_t* to) {
    const QuantiseBlocks blocks = (target == Kind::q8_0 ? quantisers.q8_0 : quantisers.q4_0)[static_cast<int>(source)];
    const size_t in_bytes = stored_row_bytes(source, kGroup), out_bytes = stored_row_bytes(target, kGroup);
    const auto n_pieces = static_cast<int>((n_blocks + kBlocksPerPiece - 1) / kBlocksPerPiece);
    std::atomic<bool> fits{true};
    pool.run(pool.size(), [&](int thread) {
        for (int piece; (piece = pool.claim(thread, n_pieces)) < n_pieces;) {
            const int64_t first = piece * kBlocksPerPiece, n = std::min(kBlocksPerPiece, n_blocks - first);
            if (!blocks(from + static_cast<size_t>(first) * in_bytes, n, to + static_cast<size_t>(first) * out_bytes))
                fits.store(false, std::memory_order_relaxed);
        }
    });
    return fits.load();
}

}  // namespace landrace
