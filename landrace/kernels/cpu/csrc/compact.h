// Bfloat16 in 12 bits, without loss. Nearly all weights of a tile share sixteen exponents, so four bits name a weight's;
// the few others are written out behind the matrix's tiles.
#pragma once

#include "types.h"

namespace landrace {

/// Steps over a tile that lie together: 64 bytes with a sign and a mantissa for each weight, in the order of bfloat16's
/// tiles, and 32 with codes of exponents, the first step's in the low halves and the second's in the high ones.
constexpr int kCompactSteps = 2;

/// A weight whose exponent has no code.
struct RareWeight {
    uint32_t step;
    uint16_t place;  // in the step: 2 * lane + input
    uint16_t bits;
};

/// What a tile begins with.
struct CompactHead {
    uint8_t exponents[kTile];  // by code
    uint64_t rare;             // where its rare weights lie, in order: bytes from here
    uint64_t n_rare;
    uint8_t unused[32];

    static const CompactHead& of(const uint8_t* tile) { return *reinterpret_cast<const CompactHead*>(tile); }
    const RareWeight* rare_begin() const { return reinterpret_cast<const RareWeight*>(reinterpret_cast<const uint8_t*>(this) + rare); }
    const RareWeight* rare_end() const { return rare_begin() + n_rare; }
};
static_assert(sizeof(CompactHead) == kCompactHead && sizeof(RareWeight) == 8, "no gaps");

}  // namespace landrace
