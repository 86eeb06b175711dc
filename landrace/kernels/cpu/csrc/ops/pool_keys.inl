// Keys of pools into the cache: a pool is so many neighbouring positions, on a grid from position 0. Its key is, channel by channel,
// a mean of what is kept of its positions: weighted by the softmax of gates plus a bias for each place (GLM-5.3); or plain, and then
// normalised and turned as the first position's (Qwen4-Exp). The row of a step that is the last of a pool makes the key, out of the
// cache alone: so it does not matter how a sequence is cut.
#pragma once

#include <algorithm>
#include <stdexcept>
#include <string>

#include "attend_plan.inl"
#include "prepared_rows.inl"
#include "select_plan.inl"

namespace landrace {
namespace LANDRACE_ISA {

class PoolKeys final : public Operation {
public:
    static constexpr Field kSchema[] = {
        integer_field("layer"), integer_field("head_dim"), integer_field("inputs"), integer_field("pool"), optional(vector_field("gate_bias")),
        optional(vector_field("norm")), optional(number_field("eps")), optional(integer_field("rotary")), optional(integer_field("rotary_half")),
        optional(integer_field("group")),
    };

    PoolKeys(const Fields& fields, Workspace& workspace)
        : layer_(static_cast<int>(fields.integer("layer"))), shape_(index_shape(fields)), inputs_(static_cast<int>(fields.integer("inputs"))),
          gated_(fields.has("gate_bias")), kept_{shape_.head_dim, gated_ ? shape_.head_dim : 0}, pool_(static_cast<int>(fields.integer("pool"))),
          gate_bias_(fields.vector("gate_bias")), norm_(fields.vector("norm")), eps_(fields.number("eps")),
          rotary_(static_cast<size_t>(fields.integer("rotary"))), half_(static_cast<int>(fields.integer("rotary_half"))),
          group_(static_cast<size_t>(fields.integer("group"))), own_rows_(workspace.state<ThreadRows>()) {
        const int d = shape_.head_dim;
        if (pool_ < 2 || pool_ > kMostChosen) throw std::invalid_argument("there are no pools of " + std::to_string(pool_) + " positions");
        if (gated_ && gate_bias_.size != pool_ * d) throw std::invalid_argument("gates have a bias for each place of a pool");
        if (norm_.size != (gated_ ? 0 : d)) throw std::invalid_argument("keys without gates have a norm, with a weight for each channel");
        if (half_ < 0 || 2 * half_ > d || (gated_ && half_))
            throw std::invalid_argument(std::to_string(d) + " channels cannot turn in " + std::to_string(half_) + " pairs");
        own_rows_.widen(pool_ * kept_.width());
        ends_ = &workspace.state<ClosingPlan>(pool_);
        of_inputs_ = static_cast<size_t>(workspace.read_layer(inputs_, kept_));
        workspace.write_layer(layer_, shape_, static_cast<int>(group_));
    }

    void check(const Step& step) const override {
        if (step.groups[group_].every != pool_) throw std::out_of_range("entries stand for another number of positions");
        expect_seen(step, of_inputs_, {Mask::Kind::chunked, pool_});
        if (!half_) return;
        expect_within(static_cast<int64_t>(rotary_), static_cast<int64_t>(step.rotary.size()), "table of angles");
        const RotaryTable& table = step.rotary[rotary_];
        for (int row = 0; row < step.n_rows; ++row)
            if ((step.positions[row] + 1) % pool_ == 0) expect_within(table.rows[row] - pool_ + 1, table.n_table_rows, "row of a table of angles");
    }

    void run(const Context& c, int thread) override {
        c.share(thread, static_cast<int>(ends_->ends().size()), [&](int index) {
            make_key(c, ends_->ends()[static_cast<size_t>(index)], own_rows_.of(thread));
        });
    }

private:
    /// The key of the pool that ends with a row.
    void make_key(const Context& c, const SelectPlan::Row& end, float* rows) const {
        const int d = shape_.head_dim;
        const int64_t* slots = c.step.groups[of_inputs_].by_position(end.sequence) + end.n_keys - pool_;
        for (int i = 0; i < pool_; ++i) read_index_row(c.workspace.cache(inputs_), kept_, slots[i], rows + i * kept_.width());
        alignas(64) float key[kMaxHeadDim];
        for (int i = 0; i < d; i += kLanes) {
            const int n = std::min(kLanes, d - i);
            store_some(key + i, gated_ ? gated_mean(rows, i, n) : mean(rows, i, n), n);
        }
        if (!gated_) rms_norm(key, norm_.data, eps_, d, key);
        if (half_) {
            const RotaryTable& table = c.step.rotary[rotary_];
            const int64_t at = (table.rows[end.row] - pool_ + 1) * half_;
            rotate(key, table.cos + at, table.sin + at, half_);
        }
        keep_index_key(c.workspace.cache(layer_), shape_, c.step.groups[group_].write_slots[end.row], key);
    }

    /// n channels from `channel` on.
    Floats mean(const float* rows, int channel, int n) const {
        Floats total = all(0.0f);
        for (int i = 0; i < pool_; ++i) total = add(total, load_some(rows + i * kept_.width() + channel, n));
        return div(total, all(static_cast<float>(pool_)));
    }

    Floats gated_mean(const float* rows, int channel, int n) const {
        const int d = shape_.head_dim;
        const auto gate = [&](int i) {
            return add(load_some(rows + i * kept_.width() + d + channel, n), load_some(gate_bias_.data + i * d + channel, n));
        };
        Floats greatest = gate(0), total = all(0.0f), weighted = all(0.0f);
        for (int i = 1; i < pool_; ++i) greatest = max(greatest, gate(i));
        for (int i = 0; i < pool_; ++i) {
            const Floats weight = exp(sub(gate(i), greatest));
            total = add(total, weight);
            weighted = fma(weight, load_some(rows + i * kept_.width() + channel, n), weighted);
        }
        return div(weighted, total);
    }

    int layer_;
    IndexShape shape_;
    int inputs_;
    bool gated_;
    IndexShape kept_;
    int pool_;
    Vector gate_bias_, norm_;
    float eps_;
    size_t rotary_;
    int half_;
    size_t group_, of_inputs_ = 0;
    ThreadRows& own_rows_;
    ClosingPlan* ends_ = nullptr;
};

LANDRACE_OPERATION(pool_keys, PoolKeys)

}  // namespace LANDRACE_ISA
}  // namespace landrace
