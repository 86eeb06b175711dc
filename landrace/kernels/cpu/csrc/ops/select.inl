// Which positions each row attends to: those whose keys an indexer scores highest. A score is the sum over the indexer's heads
// of weight * relu(q k); of equal scores the earlier position counts.
//
// The key of a row is normalised, rotated and kept in a cache of the indexer's own. Heads are added up in order.
#pragma once

#include <algorithm>
#include <stdexcept>
#include <string>

#include "attend_plan.inl"
#include "prepared_rows.inl"
#include "select_plan.inl"
#include "selected.h"

namespace landrace {
namespace LANDRACE_ISA {

/// Heads that are scored together; those that are left over are scored one by one.
constexpr int kHeadsScored = 8;

/// Adds to T tiles' scores what R heads say: queries [head_dim, R], weights [R].
template <CacheType type, int R, int T>
inline void add_scores(const float* queries, const float* weights, const uint8_t* const* keys, int head_dim, Floats total[T]) {
    Floats products[R][T];
    tile_scores<type, R, T>(queries, keys, head_dim, products);
    LANDRACE_UNROLL for (int r = 0; r < R; ++r)
        // What is no number stays so: max returns its second operand then.
        LANDRACE_UNROLL for (int t = 0; t < T; ++t) total[t] = fma(all(weights[r]), max(all(0.0f), products[r][t]), total[t]);
}

/// Scores of T tiles of keys, for all heads. scales: of the tiles' keys, int8 only.
template <CacheType type, int T>
inline void score_tiles(
    const float* queries, const float* weights, int n_heads, int head_dim, const uint8_t* const* keys, const float* const* scales, float* scores
) {
    Floats total[T];
    for (int t = 0; t < T; ++t) total[t] = all(0.0f);
    int head = 0;
    for (; head + kHeadsScored <= n_heads; head += kHeadsScored)
        add_scores<type, kHeadsScored, T>(queries + static_cast<int64_t>(head) * head_dim, weights + head, keys, head_dim, total);
    for (; head < n_heads; ++head) add_scores<type, 1, T>(queries + static_cast<int64_t>(head) * head_dim, weights + head, keys, head_dim, total);
    for (int t = 0; t < T; ++t) store(scores + t * kTile, type == CacheType::i8 ? mul(total[t], load(scales[t])) : total[t]);
}

class Select final : public Operation {
public:
    static constexpr Field kSchema[] = {
        integer_field("layer"), integer_field("n_heads"), integer_field("head_dim"), integer_field("most"), buffer_field("q"),
        buffer_field("k"), buffer_field("weights"), vector_field("norm"), vector_field("norm_bias"), number_field("eps"),
        optional(integer_field("rotary")), optional(integer_field("rotary_half")), number_field("scale"), optional(integer_field("group")),
    };

    Select(const Fields& fields, Workspace& workspace)
        : layer_(static_cast<int>(fields.integer("layer"))), n_heads_(static_cast<int>(fields.integer("n_heads"))), shape_(index_shape(fields)),
          most_(static_cast<int>(fields.integer("most"))), q_(fields.buffer("q")), k_(fields.buffer("k")), weights_(fields.buffer("weights")),
          norm_(fields.vector("norm")), norm_bias_(fields.vector("norm_bias")), eps_(fields.number("eps")),
          rotary_(static_cast<size_t>(fields.integer("rotary"))), half_(static_cast<int>(fields.integer("rotary_half"))),
          scale_(fields.number("scale")), group_(static_cast<size_t>(fields.integer("group"))), own_rows_(workspace.state<ThreadRows>()) {
        if (most_ < 1) throw std::invalid_argument("a row attends to at least one position, not " + std::to_string(most_));
        if (n_heads_ < 1) throw std::invalid_argument("there are no heads");
        workspace.expect(q_, n_heads_ * shape_.head_dim);
        workspace.expect(k_, shape_.head_dim);
        workspace.expect(weights_, n_heads_);
        if (norm_.size != shape_.head_dim || norm_bias_.size != shape_.head_dim)
            throw std::invalid_argument("the norm of a key needs a weight and a bias for each of its channels");
        if (half_ < 0 || 2 * half_ > shape_.head_dim)
            throw std::invalid_argument(std::to_string(shape_.head_dim) + " channels cannot turn in " + std::to_string(half_) + " pairs");
        own_rows_.widen(n_heads_ * shape_.head_dim);
        workspace.write_layer(layer_, shape_, static_cast<int>(fields.integer("group")));
        const Choice choice{most_, most_};
        plan_ = &workspace.state<SelectPlan>(choice, 1, 1);
        selected_ = &workspace.state<Selected>(choice, 1);
        selected_->is_written = true;
    }

    void check(const Step& step) const override {
        if (half_) expect_within(static_cast<int64_t>(rotary_), static_cast<int64_t>(step.rotary.size()), "table of angles");
        expect_seen(step, group_, {Mask::Kind::full, 0});
    }

    void run(const Context& c, int thread) override {
        c.share(thread, c.step.n_rows, [&](int row) {
            keep(c, row);
            if (selected_->has_lists(c.step.positions[row])) turn_queries(c, row, own_rows_.of(thread));
        });
        for (const SelectPlan::Block& block : plan_->blocks()) {
            c.share(thread, static_cast<int>(block.pieces.size()), [&](int piece) { score(c, block.pieces[static_cast<size_t>(piece)]); });
            c.share(thread, block.end - block.first, [&](int index) {
                const SelectPlan::Row& row = plan_->row(block.first + index);
                int32_t* out = selected_->of(row.row, 0);
                choose(plan_->scores(block.first + index, 0), row.n_keys, most_, plan_->ranks(thread), [&](int position) { *out++ = position; });
                selected_->count(row.row, 0) = most_;
            });
        }
    }

private:
    void turn(const Context& c, int row, float* channels) const {
        if (!half_) return;
        const RotaryTable& table = c.step.rotary[rotary_];
        const int64_t at = table.rows[row] * half_;
        rotate(channels, table.cos + at, table.sin + at, half_);
    }

    void keep(const Context& c, int row) const {
        alignas(64) float key[kMaxHeadDim];
        layer_norm(c.row(k_, row), norm_.data, norm_bias_.data, eps_, shape_.head_dim, key);
        turn(c, row, key);
        keep_index_key(c.workspace.cache(layer_), shape_, c.step.groups[group_].write_slots[row], key);
    }

    /// Queries turn, and the channels of heads that are scored together come to lie side by side; weights are scaled.
    void turn_queries(const Context& c, int row, float* heads) const {
        const int d = shape_.head_dim;
        float* q = c.row(q_, row);
        std::copy(q, q + n_heads_ * d, heads);
        for (int h = 0; h < n_heads_; ++h) turn(c, row, heads + h * d);
        for (int h = 0; h < n_heads_;) {
            const int together = h + kHeadsScored <= n_heads_ ? kHeadsScored : 1;
            for (int channel = 0; channel < d; ++channel)
                for (int r = 0; r < together; ++r) *q++ = heads[(h + r) * d + channel];
            h += together;
        }
        float* weights = c.row(weights_, row);
        for (int h = 0; h < n_heads_; ++h) weights[h] *= scale_;
    }

    void score(const Context& c, const SelectPlan::Piece& piece) const {
        switch (c.workspace.cache(layer_).type) {
            case CacheType::f32: return score_typed<CacheType::f32>(c, piece);
            case CacheType::f16: return score_typed<CacheType::f16>(c, piece);
            case CacheType::bf16: return score_typed<CacheType::bf16>(c, piece);
            case CacheType::i8: return score_typed<CacheType::i8>(c, piece);
            case CacheType::i4: break;  // An indexer's keys are not kept so.
        }
    }

    template <CacheType type> void score_typed(const Context& c, const SelectPlan::Piece& piece) const {
        const SelectPlan::Row& row = plan_->row(piece.row);
        const PieceKeys keys = keys_of(c, group_, c.workspace.cache(layer_), shape_, row, piece.chunk);
        const float *queries = c.row(q_, row.row), *weights = c.row(weights_, row.row);
        float* scores = plan_->scores(piece.row, 0) + keys.base;
        int t = 0;
        for (; t + 2 <= keys.n_tiles; t += 2)
            score_tiles<type, 2>(queries, weights, n_heads_, shape_.head_dim, keys.tiles + t, keys.scales + t, scores + t * kTile);
        if (t < keys.n_tiles) score_tiles<type, 1>(queries, weights, n_heads_, shape_.head_dim, keys.tiles + t, keys.scales + t, scores + t * kTile);
    }

    int layer_, n_heads_;
    IndexShape shape_;
    int most_, q_, k_, weights_;
    Vector norm_, norm_bias_;
    float eps_;
    size_t rotary_;
    int half_;
    float scale_;
    size_t group_;
    ThreadRows& own_rows_;
    SelectPlan* plan_;
    Selected* selected_;
};

LANDRACE_OPERATION(select, Select)

}  // namespace LANDRACE_ISA
}  // namespace landrace
