#include "compaction.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <numeric>

#include "compact.h"

namespace landrace {
namespace {

constexpr int kExponents = 256;
constexpr int kNoCode = kTile;

int exponent(uint16_t bits) { return bits >> 7 & 0xff; }

/// Calls work(i) for i from 0 to n - 1 on the pool's threads.
template <class F> void share(ThreadPool& pool, int n, F work) {
    pool.run(pool.size(), [&](int thread) {
        for (int i; (i = pool.claim(thread, n)) < n;) work(i);
    });
}

}  // namespace

Compaction::Compaction(ThreadPool& pool, int n_out, int n_in, const uint8_t* stored)
    : matrix_{Kind::bf12, n_out, n_in, nullptr}, stored_(stored), tiles_(static_cast<size_t>(matrix_.n_tiles())) {
    share(pool, matrix_.n_tiles(), [&](int index) { look_through(index); });
    for (Tile& tile : tiles_) {
        tile.n_before = n_rare_;
        n_rare_ += tile.n_rare;
    }
}

size_t Compaction::bytes() const { return matrix_.bytes() + n_rare_ * sizeof(RareWeight); }

Matrix Compaction::pack(ThreadPool& pool, uint8_t* to) const {
    share(pool, matrix_.n_tiles(), [&](int index) { pack(index, to); });
    return {matrix_.kind, matrix_.n_out, matrix_.n_in, to};
}

/// A tile's exponents are the most frequent ones, and of equally frequent ones the smallest.
void Compaction::look_through(int index) {
    // Neighbours are counted apart, since they are often equal, and a count must be written before it is read again.
    constexpr int kApart = 4;
    uint64_t counts[kApart][kExponents] = {};
    const int n_rows = std::min(kTile, matrix_.n_out - index * kTile);
    const int64_t n_steps = ceil_div(matrix_.n_in, 2), n_values = static_cast<int64_t>(n_rows) * matrix_.n_in;
    const uint8_t* values = stored_ + 2 * static_cast<int64_t>(index) * kTile * matrix_.n_in;
    for (int64_t i = 0; i < n_values; ++i) {
        uint16_t bits;
        std::memcpy(&bits, values + 2 * i, 2);
        ++counts[i % kApart][exponent(bits)];
    }
    counts[0][0] += static_cast<uint64_t>(n_steps * 2 * kTile - n_values);
    for (int apart = 1; apart < kApart; ++apart)
        for (int e = 0; e < kExponents; ++e) counts[0][e] += counts[apart][e];
    std::array<uint8_t, kExponents> order;
    std::iota(order.begin(), order.end(), uint8_t{0});
    std::stable_sort(order.begin(), order.end(), [&](uint8_t a, uint8_t b) { return counts[0][a] > counts[0][b]; });
    Tile& tile = tiles_[static_cast<size_t>(index)];
    std::copy_n(order.begin(), kTile, tile.exponents);
    tile.n_rare = std::accumulate(order.begin() + kTile, order.end(), uint64_t{0}, [&](uint64_t sum, uint8_t e) { return sum + counts[0][e]; });
}

void Compaction::pack(int index, uint8_t* to) const {
    const Tile& tile = tiles_[static_cast<size_t>(index)];
    uint8_t* start = to + static_cast<size_t>(index) * matrix_.tile_bytes();
    uint8_t* rare = to + matrix_.bytes() + tile.n_before * sizeof(RareWeight);
    CompactHead head{};
    std::copy_n(tile.exponents, kTile, head.exponents);
    head.rare = static_cast<uint64_t>(rare - start);
    head.n_rare = tile.n_rare;
    std::memcpy(start, &head, sizeof(head));
    uint8_t codes[kExponents];
    std::fill_n(codes, kExponents, kNoCode);
    for (int code = 0; code < kTile; ++code) codes[tile.exponents[code]] = static_cast<uint8_t>(code);

    // Some inputs of all lanes at a time: a cache line of each row.
    constexpr int kInputs = 32, kPlaces = 2 * kTile;
    uint16_t block[kTile][kInputs];
    const int n_rows = std::min(kTile, matrix_.n_out - index * kTile), n_steps = ceil_div(matrix_.n_in, 2);
    for (int step = 0; step < n_steps; step += kCompactSteps) {
        const int first = 2 * step % kInputs;
        if (first == 0) {
            // Zero stands for what the matrix lacks.
            std::memset(block, 0, sizeof(block));
            const int64_t input = 2 * static_cast<int64_t>(step), n = std::min<int64_t>(kInputs, matrix_.n_in - input);
            for (int lane = 0; lane < n_rows; ++lane)
                std::memcpy(block[lane], stored_ + 2 * ((static_cast<int64_t>(index) * kTile + lane) * matrix_.n_in + input), static_cast<size_t>(2 * n));
        }
        uint8_t* rest = start + step_offset(Kind::bf12, step);
        uint8_t* numbers = rest + kCompactSteps * kPlaces;
        std::memset(rest, 0, static_cast<size_t>(kCompactSteps * step_bytes(Kind::bf12)));
        for (int second = 0; second < std::min(kCompactSteps, n_steps - step); ++second) {
            for (int place = 0; place < kPlaces; ++place) {
                const uint16_t bits = block[place / 2][first + 2 * second + place % 2];
                rest[second * kPlaces + place] = static_cast<uint8_t>((bits >> 8 & 0x80) | (bits & 0x7f));
                const int code = codes[exponent(bits)];
                if (code != kNoCode) {
                    numbers[place] = static_cast<uint8_t>(numbers[place] | code << 4 * second);
                    continue;
                }
                const RareWeight one{static_cast<uint32_t>(step + second), static_cast<uint16_t>(place), bits};
                std::memcpy(rare, &one, sizeof(one));
                rare += sizeof(one);
            }
        }
    }
}

}  // namespace landrace
