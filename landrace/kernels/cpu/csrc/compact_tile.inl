// Tiles of bf12 on their way into registers.
#pragma once

#include "compact.h"
#include "vec.h"

namespace landrace {
namespace LANDRACE_ISA {

/// Reads a tile from front to back, two steps at a time.
class CompactReader {
public:
    static constexpr int kSteps = kCompactSteps;

    CompactReader() = default;
    explicit CompactReader(const uint8_t* tile)
        : tile_(tile), exponents_(load_exponents(CompactHead::of(tile).exponents)), rare_(CompactHead::of(tile).rare_begin()),
          rare_end_(CompactHead::of(tile).rare_end()) {
        prefetch(rare_end_);  // where those of the matrix's next tile begin
        find_next();
    }

    /// The weights of `step`, which is even, and of the one after it.
    void read(int64_t step, Pairs* out) {
        load_compact(tile_ + step_offset(Kind::bf12, step), exponents_, out[0], out[1]);
        if (__builtin_expect(step == next_, 0)) put_rare(step, out);
    }

private:
    /// Puts the rare weights of two steps into their places.
    void put_rare(int64_t step, Pairs* out) {
        alignas(64) uint8_t bytes[kSteps * step_bytes(Kind::bf16)];
        for (int i = 0; i < kSteps; ++i) store_pairs(bytes + i * step_bytes(Kind::bf16), out[i]);
        for (; rare_ < rare_end_ && rare_->step < step + kSteps; ++rare_)
            std::memcpy(bytes + (rare_->step - step) * step_bytes(Kind::bf16) + 2 * rare_->place, &rare_->bits, 2);
        for (int i = 0; i < kSteps; ++i) out[i] = load_pairs(bytes + i * step_bytes(Kind::bf16));
        find_next();
    }
    void find_next() { next_ = rare_ < rare_end_ ? rare_->step / kSteps * kSteps : -1; }

    const uint8_t* tile_;
    Exponents exponents_;
    const RareWeight* rare_;
    const RareWeight* rare_end_;
    int64_t next_;  // the even step before the next rare weight
};

/// A weight of a tile; of a rare one all but the exponent.
inline uint16_t compact_weight(const uint8_t* tile, int lane, int input) {
    const int step = input / 2, second = step % kCompactSteps, place = 2 * lane + input % 2;
    const uint8_t* at = tile + step_offset(Kind::bf12, step - second);
    const int rest = at[second * 2 * kTile + place], code = at[kCompactSteps * 2 * kTile + place] >> 4 * second & 15;
    return static_cast<uint16_t>((rest & 0x80) << 8 | CompactHead::of(tile).exponents[code] << 7 | (rest & 0x7f));
}

}  // namespace LANDRACE_ISA
}  // namespace landrace
