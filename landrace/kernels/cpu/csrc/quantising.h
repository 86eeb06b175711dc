// Float weights to ggml's blocks: Q8_0 by its plain rounding, Q4_0 with the scale that loses least.
#pragma once

#include <cstddef>
#include <cstdint>

#include "thread_pool.h"
#include "types.h"

namespace landrace {

/// Quantises `n` blocks of 32 adjacent values to blocks of their own. False where a value is NaN or so large that its
/// block's scale is no float16; `to` then holds nothing of use.
using QuantiseBlocks = bool (*)(const uint8_t* from, int64_t n, uint8_t* to);

/// What one instruction set quantises with, by the type of the source.
struct Quantisers {
    QuantiseBlocks q8_0[3];  // from f32, f16, bf16, as `Kind` numbers them
    QuantiseBlocks q4_0[3];
};

/// Quantises `n_blocks` blocks of `source` floats to `target`, q8_0 or q4_0, with all threads of the pool. The bits depend
/// on the values alone. False: see `QuantiseBlocks`.
bool quantise_weights(ThreadPool& pool, const Quantisers& quantisers, Kind source, Kind target, const uint8_t* from, int64_t n_blocks, uint8_t* to);

}  // namespace landrace
