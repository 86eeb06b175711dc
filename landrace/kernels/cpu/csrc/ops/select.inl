// Which positions each row attends to: those whose keys an indexer scores highest. A score is the sum over the indexer's heads
// of weight * relu(q k); of equal scores the earlier position counts.
//
// The key of a row is normalised, rotated and kept in a cache of the indexer's own. Heads are added up in order. Without keys
// of its own, `every` positions have one together, which another operation keeps.
#pragma once

#include <algorithm>
#include <stdexcept>
#include <string>

#include "attend_plan.inl"
#include "index_scores.inl"
#include "prepared_rows.inl"
#include "select_plan.inl"
#include "selected.h"

namespace landrace {
namespace LANDRACE_ISA {

class Select final : public Operation {
public:
    static constexpr Field kSchema[] = {
        integer_field("layer"), integer_field("n_heads"), integer_field("head_dim"), integer_field("most"), buffer_field("q"),
        optional(buffer_field("k")), buffer_field("weights"), optional(vector_field("norm")), optional(vector_field("norm_bias")), optional(number_field("eps")),
        optional(integer_field("rotary")), optional(integer_field("rotary_half")), number_field("scale"), optional(integer_field("group")),
        optional(integer_field("every")),
    };

    Select(const Fields& fields, Workspace& workspace)
        : layer_(static_cast<int>(fields.integer("layer"))), n_heads_(static_cast<int>(fields.integer("n_heads"))), shape_(index_shape(fields)),
          most_(static_cast<int>(fields.integer("most"))), q_(fields.buffer("q")), k_(fields.has("k") ? fields.buffer("k") : -1), weights_(fields.buffer("weights")),
          norm_(fields.vector("norm")), norm_bias_(fields.vector("norm_bias")), eps_(fields.number("eps")),
          rotary_(static_cast<size_t>(fields.integer("rotary"))), half_(static_cast<int>(fields.integer("rotary_half"))),
          scale_(fields.number("scale")), group_(static_cast<size_t>(fields.integer("group"))),
          every_(std::max(1, static_cast<int>(fields.integer("every")))), own_rows_(workspace.state<ThreadRows>()) {
        if (most_ < 1) throw std::invalid_argument("a row attends to at least one position, not " + std::to_string(most_));
        if (n_heads_ < 1) throw std::invalid_argument("there are no heads");
        workspace.expect(q_, n_heads_ * shape_.head_dim);
        workspace.expect(weights_, n_heads_);
        if ((k_ < 0) != (every_ > 1)) throw std::invalid_argument("positions have keys of their own, and entries another operation's");
        if (k_ >= 0) workspace.expect(k_, shape_.head_dim);
        if (k_ >= 0 && (norm_.size != shape_.head_dim || norm_bias_.size != shape_.head_dim))
            throw std::invalid_argument("the norm of a key needs a weight and a bias for each of its channels");
        if (half_ < 0 || 2 * half_ > shape_.head_dim)
            throw std::invalid_argument(std::to_string(shape_.head_dim) + " channels cannot turn in " + std::to_string(half_) + " pairs");
        own_rows_.widen(n_heads_ * shape_.head_dim);
        if (k_ >= 0) workspace.write_layer(layer_, shape_, static_cast<int>(group_));
        else group_ = static_cast<size_t>(workspace.read_layer(layer_, shape_));
        const Choice choice{most_, most_};
        plan_ = &workspace.state<SelectPlan>(choice, 1, 1, every_);
        selected_ = &workspace.state<Selected>(choice, 1);
        selected_->is_written = true;
    }

    void check(const Step& step) const override {
        if (half_) expect_within(static_cast<int64_t>(rotary_), static_cast<int64_t>(step.rotary.size()), "table of angles");
        expect_seen(step, group_, {Mask::Kind::full, 0});
    }

    void run(const Context& c, int thread) override {
        c.share(thread, c.step.n_rows, [&](int row) {
            if (k_ >= 0) keep(c, row);
            if (selected_->has_lists((c.step.positions[row] + 1) / every_ - 1)) turn_queries(c, row, own_rows_.of(thread));
        });
        for (const SelectPlan::Block& block : plan_->blocks()) {
            c.share(thread, static_cast<int>(block.pieces.size()), [&](int index) {
                const SelectPlan::Piece& piece = block.pieces[static_cast<size_t>(index)];
                const int row = plan_->row(piece.row).row;
                score_piece(c, group_, layer_, shape_, *plan_, piece, c.row(q_, row), c.row(weights_, row), n_heads_);
            });
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
        put_side_by_side(heads, n_heads_, d, q);
        float* weights = c.row(weights_, row);
        for (int h = 0; h < n_heads_; ++h) weights[h] *= scale_;
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
    int every_;
    ThreadRows& own_rows_;
    SelectPlan* plan_;
    Selected* selected_;
};

LANDRACE_OPERATION(select, Select)

}  // namespace LANDRACE_ISA
}  // namespace landrace
