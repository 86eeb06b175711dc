// What operations that choose positions share: which rows of a step must choose, their scores, and the choice.
//
// A score is one lane's, its channels in order, so a row chooses alike whatever is beside it.
#pragma once

#include <algorithm>
#include <cstring>
#include <functional>
#include <vector>

#include "attend.inl"
#include "cached_heads.inl"
#include "operation.h"
#include "selected.h"

namespace landrace {
namespace LANDRACE_ISA {

/// Rows whose scores are kept at a time.
constexpr int kRowsChoosing = 16;
/// Positions that a row attends to by choice, at most.
constexpr int kMostChosen = 1 << 24;

/// The rows of a step that must choose among positions, or entries of `every` positions each, and `n_lists` scores of each with
/// every `keys_per_score` keys.
class SelectPlan final : public State {
public:
    struct Row {
        int row, sequence, n_keys;
    };
    /// 256 keys of one row.
    struct Piece {
        int row, chunk;
    };
    /// Rows that are scored and then choose, together.
    struct Block {
        int first, end;
        std::vector<Piece> pieces;
    };

    SelectPlan(const Choice& choice, int n_lists, int keys_per_score, int every = 1)
        : choice_(choice), n_lists_(n_lists), keys_per_score_(keys_per_score), every_(every) {}
    bool serves(const Choice& choice, int n_lists, int keys_per_score, int every = 1) const {
        return choice == choice_ && n_lists == n_lists_ && keys_per_score == keys_per_score_ && every == every_;
    }

    void prepare(const Step& step, int threads) override {
        rows_.clear();
        blocks_.clear();
        longest_ = 0;
        for (int s = 0; s < step.n_sequences; ++s)
            for (auto row = static_cast<int>(step.starts[s]); row < static_cast<int>(step.starts[s + 1]); ++row)
                if (const int64_t n_keys = (step.positions[row] + 1) / every_; choice_.has(n_keys - 1)) add({row, s, static_cast<int>(n_keys)});
        // A vector may begin at any score of a list.
        const size_t n_scores = kRowsChoosing * static_cast<size_t>(n_lists_) * longest_ + kLanes, n_ranks = static_cast<size_t>(threads) * longest_;
        if (scores_.size() < n_scores) scores_.resize(n_scores);
        if (ranks_.size() < n_ranks) ranks_.resize(n_ranks);
    }

    const std::vector<Block>& blocks() const { return blocks_; }
    const Row& row(int index) const { return rows_[static_cast<size_t>(index)]; }
    /// Of the row of that index, in whole chunks.
    float* scores(int index, int list) {
        return &scores_[(static_cast<size_t>(index % kRowsChoosing) * static_cast<size_t>(n_lists_) + static_cast<size_t>(list)) * longest_];
    }
    uint32_t* ranks(int thread) { return &ranks_[static_cast<size_t>(thread) * longest_]; }

private:
    void add(const Row& row) {
        const int index = static_cast<int>(rows_.size()), n_chunks = ceil_div(row.n_keys, kKeysPerChunk);
        if (index % kRowsChoosing == 0) blocks_.push_back({index, index, {}});
        rows_.push_back(row);
        blocks_.back().end = index + 1;
        for (int chunk = 0; chunk < n_chunks; ++chunk) blocks_.back().pieces.push_back({index, chunk});
        longest_ = std::max(longest_, static_cast<size_t>(n_chunks) * kKeysPerChunk / static_cast<size_t>(keys_per_score_));
    }

    Choice choice_;
    int n_lists_, keys_per_score_, every_;
    size_t longest_ = 0;
    std::vector<Row> rows_;
    std::vector<Block> blocks_;
    std::vector<float> scores_;    // [kRowsChoosing, n_lists, longest]
    std::vector<uint32_t> ranks_;  // [threads, longest]
};

/// The rows of a step that are the last of `size` positions each, on a grid from position 0.
class ClosingPlan final : public State {
public:
    explicit ClosingPlan(int size) : size_(size) {}
    bool serves(int size) const { return size == size_; }

    void prepare(const Step& step, int) override {
        ends_.clear();
        for (int s = 0; s < step.n_sequences; ++s)
            for (auto row = static_cast<int>(step.starts[s]); row < static_cast<int>(step.starts[s + 1]); ++row)
                if ((step.positions[row] + 1) % size_ == 0) ends_.push_back({row, s, static_cast<int>(step.positions[row]) + 1});
    }

    const std::vector<SelectPlan::Row>& ends() const { return ends_; }

private:
    int size_;
    std::vector<SelectPlan::Row> ends_;
};

/// Where the keys of a piece lie.
struct PieceKeys {
    const uint8_t* tiles[kKeysPerChunk / kTile + kTilesAhead];
    const float* scales[kKeysPerChunk / kTile];  // int8 only
    int n_tiles;
    int64_t base;  // the first one's position
};

inline PieceKeys keys_of(const Context& c, size_t group, const LayerCache& cache, const IndexShape& shape, const SelectPlan::Row& row, int chunk) {
    PieceKeys keys;
    keys.base = static_cast<int64_t>(chunk) * kKeysPerChunk;
    keys.n_tiles = ceil_div(static_cast<int>(std::min<int64_t>(row.n_keys - keys.base, kKeysPerChunk)), kTile);
    const int64_t* slots = c.step.groups[group].by_position(row.sequence) + keys.base;
    for (int t = 0; t < keys.n_tiles; ++t) {
        keys.tiles[t] = cache.index_tile(shape, slots[t * kTile] / kTile);
        keys.scales[t] = cache.type == CacheType::i8 ? cache.key_scales + slots[t * kTile] : nullptr;
    }
    std::fill_n(keys.tiles + keys.n_tiles, kTilesAhead, keys.tiles[0]);
    return keys;
}

/// n channels of a slot, from `first` on, into an indexer's cache. scales: of the slots, int8 only.
inline void keep_index_channels(const LayerCache& cache, const IndexShape& shape, int64_t slot, int first, int n, const float* x, float* scales) {
    float inverse = 0.0f;
    if (cache.type == CacheType::i8) scales[slot] = int8_scale(x, n, inverse);
    uint8_t* at = cache.index_tile(shape, slot / kTile) + (first * kTile + slot % kTile) * element_bytes(cache.type);
    store_head(cache.type, x, n, inverse, at, kTile);
}

/// A row's key into an indexer's cache.
inline void keep_index_key(const LayerCache& cache, const IndexShape& shape, int64_t slot, const float* key) {
    keep_index_channels(cache, shape, slot, 0, shape.head_dim, key, cache.key_scales);
}

template <CacheType type>
void read_index_channels(const LayerCache& cache, const IndexShape& shape, int64_t slot, int first, int n, const float* scales, float* out) {
    const uint8_t* tile = cache.index_tile(shape, slot / kTile);
    const float scale = type == CacheType::i8 ? scales[slot] : 1.0f;
    float lanes[kLanes];
    for (int i = 0; i < n; ++i) {
        store(lanes, load_elements<type>(tile, static_cast<int64_t>(first + i) * kLanes));
        out[i] = type == CacheType::i8 ? scale * lanes[slot % kTile] : lanes[slot % kTile];
    }
}

/// The key and the gates of a slot, side by side.
template <CacheType type> void read_index_row(const LayerCache& cache, const IndexShape& shape, int64_t slot, float* out) {
    read_index_channels<type>(cache, shape, slot, 0, shape.head_dim, cache.key_scales, out);
    if (shape.n_gates) read_index_channels<type>(cache, shape, slot, shape.head_dim, shape.n_gates, cache.value_scales, out + shape.head_dim);
}

inline void read_index_row(const LayerCache& cache, const IndexShape& shape, int64_t slot, float* out) {
    switch (cache.type) {
        case CacheType::f32: return read_index_row<CacheType::f32>(cache, shape, slot, out);
        case CacheType::f16: return read_index_row<CacheType::f16>(cache, shape, slot, out);
        case CacheType::bf16: return read_index_row<CacheType::bf16>(cache, shape, slot, out);
        case CacheType::i8: return read_index_row<CacheType::i8>(cache, shape, slot, out);
        case CacheType::i4: break;  // An indexer's keys are not kept so.
    }
}

/// A score as a whole number: in the order of scores, equal for equal ones, and greatest for what is no number.
inline uint32_t rank_of(float score) {
    if (score != score) return 0xffffffffu;
    const float without_minus_zero = score + 0.0f;
    uint32_t bits;
    std::memcpy(&bits, &without_minus_zero, 4);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

/// Calls take(i) for the `most` greatest of n scores, in order; of equal ones the first count.
template <class Take> inline void choose(const float* scores, int n, int most, uint32_t* ranks, Take take) {
    for (int i = 0; i < n; ++i) ranks[i] = rank_of(scores[i]);
    std::nth_element(ranks, ranks + most - 1, ranks + n, std::greater<uint32_t>());
    const uint32_t last = ranks[most - 1];
    int equal = most;  // how many of those that equal the last one are taken
    for (int i = 0; i < n; ++i) equal -= rank_of(scores[i]) > last;
    for (int i = 0; i < n; ++i) {
        const uint32_t rank = rank_of(scores[i]);
        if (rank > last || (rank == last && equal-- > 0)) take(i);
    }
}

/// A row attends to the positions of those `most` of its blocks that have the greatest scores, in the list of that number.
inline void choose_positions(
    const float* scores, const SelectPlan::Row& row, int block, int most, uint32_t* ranks, Selected& selected, int list
) {
    int32_t* const first = selected.of(row.row, list);
    int32_t* out = first;
    choose(scores, ceil_div(row.n_keys, block), most, ranks, [&](int b) {
        for (int key = b * block; key < std::min(row.n_keys, (b + 1) * block); ++key) *out++ = key;
    });
    selected.count(row.row, list) = static_cast<int>(out - first);
}

}  // namespace LANDRACE_ISA
}  // namespace landrace
