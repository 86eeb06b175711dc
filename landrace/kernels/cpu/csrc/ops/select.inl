// Which positions each row attends to: those whose keys an indexer scores highest. A score is the sum over the indexer's heads
// of weight * relu(q k); of equal scores the earlier position counts.
//
// The key of a row is normalised, rotated and kept in a cache of the indexer's own. Heads are added up in order. Without keys
// of its own, `every` positions have one together, which another operation keeps: then entries are chosen, or with `positions`
// those of the chosen entries, and those behind the last one that is there.
#pragma once

#include <algorithm>
#include <stdexcept>
#include <string>
#include <vector>

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
        optional(buffer_field("k")), optional(buffer_field("weights")), optional(vector_field("q_norm")), optional(vector_field("norm")),
        optional(vector_field("norm_bias")), optional(number_field("eps")), optional(integer_field("rotary")), optional(integer_field("rotary_half")),
        number_field("scale"), optional(integer_field("group")), optional(integer_field("every")), optional(flag_field("positions")),
    };

    Select(const Fields& fields, Workspace& workspace)
        : layer_(static_cast<int>(fields.integer("layer"))), n_heads_(static_cast<int>(fields.integer("n_heads"))), shape_(index_shape(fields)),
          most_(static_cast<int>(fields.integer("most"))), q_(fields.buffer("q")), k_(fields.has("k") ? fields.buffer("k") : -1),
          weights_(fields.has("weights") ? fields.buffer("weights") : -1), q_norm_(fields.vector("q_norm")), norm_(fields.vector("norm")),
          norm_bias_(fields.vector("norm_bias")), eps_(fields.number("eps")),
          rotary_(static_cast<size_t>(fields.integer("rotary"))), half_(static_cast<int>(fields.integer("rotary_half"))),
          scale_(fields.number("scale")), group_(static_cast<size_t>(fields.integer("group"))),
          every_(std::max(1, static_cast<int>(fields.integer("every")))), positions_(fields.flag("positions")), choice_{most_, most_},
          own_rows_(workspace.state<ThreadRows>()) {
        if (most_ < 1 || most_ > kMostChosen / every_ - 1)
            throw std::invalid_argument("there are no " + std::to_string(most_) + " keys of " + std::to_string(every_) + " positions to choose");
        if (n_heads_ < 1) throw std::invalid_argument("there are no heads");
        workspace.expect(q_, n_heads_ * shape_.head_dim);
        if (weights_ >= 0) workspace.expect(weights_, n_heads_);
        else same_weights_.assign(static_cast<size_t>(n_heads_), scale_);
        if (q_norm_.data && q_norm_.size != shape_.head_dim) throw std::invalid_argument("a norm over heads needs a weight for each of its channels");
        if ((k_ < 0) != (every_ > 1)) throw std::invalid_argument("positions have keys of their own, and entries another operation's");
        if (k_ >= 0) workspace.expect(k_, shape_.head_dim);
        if (k_ >= 0 && (norm_.size != shape_.head_dim || norm_bias_.size != shape_.head_dim))
            throw std::invalid_argument("the norm of a key needs a weight and a bias for each of its channels");
        if (half_ < 0 || 2 * half_ > shape_.head_dim)
            throw std::invalid_argument(std::to_string(shape_.head_dim) + " channels cannot turn in " + std::to_string(half_) + " pairs");
        own_rows_.widen(n_heads_ * shape_.head_dim);
        if (k_ >= 0) workspace.write_layer(layer_, shape_, static_cast<int>(group_));
        else group_ = static_cast<size_t>(workspace.read_layer(layer_, shape_));
        plan_ = &workspace.state<SelectPlan>(choice_, 1, 1, every_);
        const int most = positions_ ? every_ * (most_ + 1) - 1 : most_;
        selected_ = &workspace.state<Selected>(Choice{most, most}, 1);
        selected_->is_written = true;
    }

    void check(const Step& step) const override {
        if (half_) expect_within(static_cast<int64_t>(rotary_), static_cast<int64_t>(step.rotary.size()), "table of angles");
        if (step.groups[group_].every != every_) throw std::out_of_range("entries stand for another number of positions");
        expect_seen(step, group_, {Mask::Kind::full, 0});
    }

    void run(const Context& c, int thread) override {
        c.share(thread, c.step.n_rows, [&](int row) {
            if (k_ >= 0) keep(c, row);
            if (choice_.has((c.step.positions[row] + 1) / every_ - 1)) prepare_queries(c, row, own_rows_.of(thread));
        });
        for (const SelectPlan::Block& block : plan_->blocks()) {
            c.share(thread, static_cast<int>(block.pieces.size()), [&](int index) {
                const SelectPlan::Piece& piece = block.pieces[static_cast<size_t>(index)];
                const int row = plan_->row(piece.row).row;
                const float* weights = weights_ >= 0 ? c.row(weights_, row) : same_weights_.data();
                score_piece(c, group_, layer_, shape_, *plan_, piece, c.row(q_, row), weights, n_heads_);
            });
            c.share(thread, block.end - block.first, [&](int index) { choose_keys(c, block.first + index, thread); });
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

    /// Queries are normalised and turn, and the channels of heads that are scored together come to lie side by side; weights are
    /// scaled.
    void prepare_queries(const Context& c, int row, float* heads) const {
        const int d = shape_.head_dim;
        float* q = c.row(q_, row);
        std::copy(q, q + n_heads_ * d, heads);
        for (int h = 0; h < n_heads_; ++h) {
            if (q_norm_.data) rms_norm(heads + h * d, q_norm_.data, eps_, d, heads + h * d);
            turn(c, row, heads + h * d);
        }
        put_side_by_side(heads, n_heads_, d, q);
        if (weights_ < 0) return;
        float* weights = c.row(weights_, row);
        for (int h = 0; h < n_heads_; ++h) weights[h] *= scale_;
    }

    /// The best keys' entries or positions become the row's list.
    void choose_keys(const Context& c, int index, int thread) const {
        const SelectPlan::Row& row = plan_->row(index);
        int32_t* const first = selected_->of(row.row, 0);
        int32_t* out = first;
        const int size = positions_ ? every_ : 1;
        const auto take = [&](int key) {
            for (int i = key * size; i < (key + 1) * size; ++i) *out++ = i;
        };
        choose(plan_->scores(index, 0), row.n_keys, most_, plan_->ranks(thread), take);
        if (positions_)
            for (int64_t i = static_cast<int64_t>(row.n_keys) * size; i <= c.step.positions[row.row]; ++i) *out++ = static_cast<int32_t>(i);
        selected_->count(row.row, 0) = static_cast<int>(out - first);
    }

    int layer_, n_heads_;
    IndexShape shape_;
    int most_, q_, k_, weights_;
    Vector q_norm_, norm_, norm_bias_;
    float eps_;
    size_t rotary_;
    int half_;
    float scale_;
    size_t group_;
    int every_;
    bool positions_;
    Choice choice_;
    std::vector<float> same_weights_;  // [n_heads] where a row brings none
    ThreadRows& own_rows_;
    SelectPlan* plan_;
    Selected* selected_;
};

LANDRACE_OPERATION(select, Select)

}  // namespace LANDRACE_ISA
}  // namespace landrace
