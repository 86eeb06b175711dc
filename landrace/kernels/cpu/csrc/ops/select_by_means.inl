// Which blocks of positions each row attends to, for each head of keys apart (InfLLM-v2): the first and the nearest in any case, and
// those with the window of keys whose mean the head's queries weigh most; of equal ones the earlier.
//
// The mean of every sixteen keys is kept in a cache of its own, in the tile where their positions are: all heads' channels, one after
// another. A window is two such means, so its score is half the sum of theirs.
#pragma once

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <string>

#include "attend_plan.inl"
#include "select_plan.inl"
#include "selected.h"

namespace landrace {
namespace LANDRACE_ISA {

class SelectByMeans final : public Operation {
public:
    static constexpr Field kSchema[] = {
        integer_field("layer"), integer_field("keys"), integer_field("n_heads"), integer_field("n_kv_heads"), integer_field("head_dim"),
        integer_field("block"), integer_field("n_blocks"), integer_field("n_first"), integer_field("n_local"), integer_field("onset"),
        buffer_field("q"), optional(integer_field("group")),
    };

    SelectByMeans(const Fields& fields, Workspace& workspace)
        : layer_(static_cast<int>(fields.integer("layer"))), keys_(static_cast<int>(fields.integer("keys"))), heads_(head_shape(fields)),
          means_{heads_.n_kv_heads * heads_.head_dim / kTile, 0}, block_(static_cast<int>(fields.integer("block"))),
          n_blocks_(static_cast<int>(fields.integer("n_blocks"))), n_first_(static_cast<int>(fields.integer("n_first"))),
          n_local_(static_cast<int>(fields.integer("n_local"))), q_(fields.buffer("q")),
          group_(static_cast<size_t>(fields.integer("group"))) {
        const auto onset = static_cast<int>(fields.integer("onset"));
        if (heads_.head_dim % kTile || means_.head_dim > kMaxHeadDim)
            throw std::invalid_argument("means are kept of heads of whole vectors, and of not too many");
        if (block_ < kTile || block_ % kTile || n_blocks_ < 1 || block_ > kMostChosen / n_blocks_)
            throw std::invalid_argument("there are no " + std::to_string(n_blocks_) + " blocks of " + std::to_string(block_) + " positions to choose");
        if (n_first_ < 0 || n_local_ < 1 || n_local_ > n_blocks_ || n_first_ > n_blocks_ - n_local_)
            throw std::invalid_argument("the first blocks, and a row's own, are among those that it attends to");
        if (onset < block_ * n_blocks_ || onset < kMeansTogether * kTile - 1)
            throw std::invalid_argument("rows that see so few positions attend to all");
        workspace.expect(q_, heads_.n_heads * heads_.head_dim);
        if (workspace.read_layer(keys_, heads_) != static_cast<int>(group_)) throw std::invalid_argument("keys and their means have one cache group");
        workspace.write_layer(layer_, means_, static_cast<int>(group_));
        const Choice choice{block_ * n_blocks_, onset};
        plan_ = &workspace.state<SelectPlan>(choice, heads_.n_heads + heads_.n_kv_heads, kTile);
        selected_ = &workspace.state<Selected>(choice, heads_.n_kv_heads);
        selected_->is_written = true;
    }

    void check(const Step& step) const override { expect_seen(step, group_, {Mask::Kind::full, 0}); }

    void run(const Context& c, int thread) override {
        c.share(thread, c.step.n_rows, [&](int row) {
            if ((c.step.positions[row] + 1) % kTile == 0) by_type(c, [&](auto type) { keep_means<type.value>(c, row); });
        });
        for (const SelectPlan::Block& block : plan_->blocks()) {
            c.share(thread, static_cast<int>(block.pieces.size()), [&](int piece) {
                by_type(c, [&](auto type) { score<type.value>(c, block.pieces[static_cast<size_t>(piece)]); });
            });
            c.share(thread, (block.end - block.first) * heads_.n_kv_heads, [&](int piece) {
                choose_blocks(block.first + piece / heads_.n_kv_heads, piece % heads_.n_kv_heads, thread);
            });
        }
    }

private:
    /// Means of a coarse window, by which scores are normalised, and how far the next one is.
    static constexpr int kMeansTogether = 8, kMeansApart = 4;

    template <class F> void by_type(const Context& c, F f) const {
        switch (c.workspace.cache(layer_).type) {
            case CacheType::f32: return f(std::integral_constant<CacheType, CacheType::f32>());
            case CacheType::f16: return f(std::integral_constant<CacheType, CacheType::f16>());
            case CacheType::bf16: return f(std::integral_constant<CacheType, CacheType::bf16>());
            case CacheType::i8: return f(std::integral_constant<CacheType, CacheType::i8>());
            case CacheType::i4: break;  // Means are not kept so.
        }
    }

    /// Those of a row's tile, of which it is the last.
    template <CacheType type> void keep_means(const Context& c, int row) const {
        const LayerCache& cache = c.workspace.cache(keys_);
        const int64_t slot = c.step.groups[group_].write_slots[row] / kTile * kTile;
        alignas(64) float means[kMaxHeadDim * kTile], share[kMaxHeadDim];
        for (int h = 0; h < heads_.n_kv_heads; ++h) {
            const int64_t index = cache.tile_of(heads_, slot, h);
            const uint8_t* tile = cache.tiles + index * cache.tile_bytes(heads_);
            for (int channel = 0; channel < heads_.head_dim; ++channel) {
                Floats keys = load_elements<type>(tile, static_cast<int64_t>(channel) * kLanes);
                if constexpr (type == CacheType::i8) keys = mul(keys, load(cache.key_scales + index * kTile));
                means[h * heads_.head_dim + channel] = sum(keys) * (1.0f / kTile);
            }
        }
        for (int lane = 0; lane < kTile; ++lane) {
            for (int i = 0; i < means_.head_dim; ++i) share[i] = means[i * kTile + lane];
            keep_index_key(c.workspace.cache(layer_), means_, slot + lane, share);
        }
    }

    /// Of all heads with the means of 256 keys, as far as they are whole.
    template <CacheType type> void score(const Context& c, const SelectPlan::Piece& piece) const {
        const SelectPlan::Row& row = plan_->row(piece.row);
        const PieceKeys means = keys_of(c, group_, c.workspace.cache(layer_), means_, row, piece.chunk);
        const int first = static_cast<int>(means.base / kTile), n = std::min(means.n_tiles, row.n_keys / kTile - first);
        const int d = heads_.head_dim, share = heads_.n_heads / heads_.n_kv_heads;
        for (int h = 0; h < heads_.n_heads; ++h) {
            const float* q = c.row(q_, row.row) + h * d;
            float* scores = plan_->scores(piece.row, h) + first;
            for (int t = 0; t < n; ++t) {
                Floats acc = all(0.0f);
                for (int channel = 0; channel < d; channel += kLanes) {
                    Floats mean = load_elements<type>(means.tiles[t], static_cast<int64_t>(h / share) * d + channel);
                    if constexpr (type == CacheType::i8) mean = mul(mean, load(means.scales[t]));
                    acc = fma(load(q + channel), mean, acc);
                }
                scores[t] = sum(acc);
            }
        }
    }

    /// The weights of windows, added up over the heads that share keys, become blocks' scores: a block's is the greatest of those
    /// windows that reach into it.
    void choose_blocks(int index, int kv_head, int thread) const {
        const SelectPlan::Row& row = plan_->row(index);
        const int n_windows = row.n_keys / kTile - 1, n = ceil_div(row.n_keys, block_), step = block_ / kTile;
        const int share = heads_.n_heads / heads_.n_kv_heads;
        float* weights = plan_->scores(index, heads_.n_heads + kv_head);
        for (int w = 0; w < n_windows; w += kLanes) store(weights + w, all(0.0f));
        for (int h = kv_head * share; h < (kv_head + 1) * share; ++h) add_weights(plan_->scores(index, h), row.n_keys / kTile, weights);
        float* blocks = plan_->scores(index, kv_head * share);
        for (int b = 0; b < n; ++b) {
            const int end = std::min(n_windows, (b + 1) * step);
            float best = -std::numeric_limits<float>::infinity();
            // What is no number is the best.
            for (int w = std::max(0, b * step - 1); w < end; ++w)
                if (!(weights[w] <= best) && best == best) best = weights[w];
            blocks[b] = b < n_first_ || b >= n - n_local_ ? std::numeric_limits<float>::infinity() : best;
        }
        choose_positions(blocks, row, block_, n_blocks_, plan_->ranks(thread), *selected_, kv_head);
    }

    /// Of a head: exp of its scores with windows, divided by the sum of exp of those with coarse windows.
    static void add_weights(const float* scores, int n_means, float* weights) {
        const auto coarse = [&](int first) {
            float total = scores[first];
            for (int i = 1; i < kMeansTogether; ++i) total += scores[first + i];
            return total * (1.0f / kMeansTogether);
        };
        float greatest = -std::numeric_limits<float>::infinity(), total = 0.0f;
        for (int first = 0; first + kMeansTogether <= n_means; first += kMeansApart) greatest = std::max(greatest, coarse(first));
        for (int first = 0; first + kMeansTogether <= n_means; first += kMeansApart) total += exp(coarse(first) - greatest);
        const Floats half = all(0.5f), most = all(greatest), factor = all(1.0f / total);
        for (int w = 0; w < n_means - 1; w += kLanes) {
            const Floats window = mul(half, add(load(scores + w), load(scores + w + 1)));
            store(weights + w, fma(exp(sub(window, most)), factor, load(weights + w)));
        }
    }

    int layer_, keys_;
    HeadShape heads_;
    IndexShape means_;
    int block_, n_blocks_, n_first_, n_local_, q_;
    size_t group_;
    SelectPlan* plan_;
    Selected* selected_;
};

LANDRACE_OPERATION(select_by_means, SelectByMeans)

}  // namespace LANDRACE_ISA
}  // namespace landrace
