// Which positions each row attends to, a pool of neighbours at a time: those whose pools' keys an indexer scores highest, and those
// behind the last whole pool that the row sees. A score is the sum over the indexer's heads of weight * relu(q k); of equal scores
// the earlier pool counts. Pools lie on a grid from position 0.
//
// A pool's key is, channel by channel, a mean of its positions' keys: weighted by the softmax of gates plus a bias for each place, the
// keys normalised before it (GLM-5.3); or plain, and then normalised and turned as the first position's (Qwen4-Exp). Until the last
// position of a pool is there its keys and gates are kept; the pool's key then takes the place of the last one's. So it is made once,
// from what the cache holds, however a sequence is cut.
#pragma once

#include <algorithm>
#include <limits>
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

class SelectPools final : public Operation {
public:
    static constexpr Field kSchema[] = {
        integer_field("layer"), integer_field("n_heads"), integer_field("head_dim"), optional(integer_field("n_gates")), integer_field("pool"),
        integer_field("n_pools"), buffer_field("q"), buffer_field("k"), optional(buffer_field("weights")), optional(buffer_field("gates")),
        optional(vector_field("gate_bias")), optional(vector_field("q_norm")), vector_field("norm"), optional(vector_field("norm_bias")),
        number_field("eps"), optional(integer_field("rotary")), optional(integer_field("rotary_half")), number_field("scale"),
        optional(integer_field("group")),
    };

    SelectPools(const Fields& fields, Workspace& workspace)
        : layer_(static_cast<int>(fields.integer("layer"))), n_heads_(static_cast<int>(fields.integer("n_heads"))), shape_(index_shape(fields)),
          pool_(static_cast<int>(fields.integer("pool"))), n_pools_(static_cast<int>(fields.integer("n_pools"))), q_(fields.buffer("q")),
          k_(fields.buffer("k")), weighted_(fields.has("weights")), weights_(fields.buffer("weights")), gates_(fields.buffer("gates")),
          gate_bias_(fields.vector("gate_bias")), q_norm_(fields.vector("q_norm")), norm_(fields.vector("norm")),
          norm_bias_(fields.vector("norm_bias")), eps_(fields.number("eps")), rotary_(static_cast<size_t>(fields.integer("rotary"))),
          half_(static_cast<int>(fields.integer("rotary_half"))), scale_(fields.number("scale")),
          group_(static_cast<size_t>(fields.integer("group"))), own_rows_(workspace.state<ThreadRows>()) {
        if (pool_ < 1 || n_pools_ < 1 || pool_ > kMostChosen / n_pools_ - 1)
            throw std::invalid_argument("there are no " + std::to_string(n_pools_) + " pools of " + std::to_string(pool_) + " positions to choose");
        if (n_heads_ < 1) throw std::invalid_argument("there are no heads");
        const int d = shape_.head_dim, gated = shape_.n_gates > 0;
        workspace.expect(q_, n_heads_ * d);
        workspace.expect(k_, d);
        if (weighted_) workspace.expect(weights_, n_heads_);
        if (fields.has("gates") != gated || gate_bias_.size != gated * pool_ * d || norm_bias_.size != gated * d)
            throw std::invalid_argument("gates come with a bias for each place of a pool, and with a bias of the norm");
        if (gated) workspace.expect(gates_, d);
        if (norm_.size != d || (q_norm_.data && q_norm_.size != d))
            throw std::invalid_argument("a norm over heads needs a weight for each of its channels");
        if (half_ < 0 || 2 * half_ > d || (gated && half_))
            throw std::invalid_argument(std::to_string(d) + " channels cannot turn in " + std::to_string(half_) + " pairs");
        own_rows_.widen(std::max(n_heads_ * d, pool_ * shape_.width()));
        if (!weighted_) same_weights_.assign(static_cast<size_t>(n_heads_), scale_);
        workspace.write_layer(layer_, shape_, static_cast<int>(fields.integer("group")));
        const int most = n_pools_ * pool_ + pool_ - 1;
        const Choice choice{most, most};
        pools_ = &workspace.state<PoolPlan>(pool_);
        plan_ = &workspace.state<SelectPlan>(choice, 1, 1);
        selected_ = &workspace.state<Selected>(choice, 1);
        selected_->is_written = true;
    }

    void check(const Step& step) const override {
        expect_seen(step, group_, {Mask::Kind::full, 0});
        if (!half_) return;
        expect_within(static_cast<int64_t>(rotary_), static_cast<int64_t>(step.rotary.size()), "table of angles");
        const RotaryTable& table = step.rotary[rotary_];
        for (int row = 0; row < step.n_rows; ++row)
            if ((step.positions[row] + 1) % pool_ == 0) expect_within(table.rows[row] - pool_ + 1, table.n_table_rows, "row of a table of angles");
    }

    void run(const Context& c, int thread) override {
        c.share(thread, c.step.n_rows, [&](int row) {
            keep(c, row);
            if (selected_->has_lists(c.step.positions[row])) prepare_queries(c, row, own_rows_.of(thread));
        });
        c.share(thread, static_cast<int>(pools_->ends().size()), [&](int index) {
            keep_pool(c, pools_->ends()[static_cast<size_t>(index)], own_rows_.of(thread));
        });
        for (const SelectPlan::Block& block : plan_->blocks()) {
            c.share(thread, static_cast<int>(block.pieces.size()), [&](int index) {
                const SelectPlan::Piece& piece = block.pieces[static_cast<size_t>(index)];
                const int row = plan_->row(piece.row).row;
                const float* weights = weighted_ ? c.row(weights_, row) : same_weights_.data();
                score_piece(c, group_, layer_, shape_, *plan_, piece, c.row(q_, row), weights, n_heads_);
            });
            c.share(thread, block.end - block.first, [&](int index) { choose_pools(block.first + index, thread); });
        }
    }

private:
    /// Turns a head by the angles of the position so many before the row's.
    void turn(const Context& c, int row, int before, float* head) const {
        if (!half_) return;
        const RotaryTable& table = c.step.rotary[rotary_];
        const int64_t at = (table.rows[row] - before) * half_;
        rotate(head, table.cos + at, table.sin + at, half_);
    }

    void keep(const Context& c, int row) const {
        const LayerCache& cache = c.workspace.cache(layer_);
        const int64_t slot = c.step.groups[group_].write_slots[row];
        if (!shape_.n_gates) return keep_index_key(cache, shape_, slot, c.row(k_, row));
        alignas(64) float key[kMaxHeadDim];
        layer_norm(c.row(k_, row), norm_.data, norm_bias_.data, eps_, shape_.head_dim, key);
        keep_index_key(cache, shape_, slot, key);
        keep_index_channels(cache, shape_, slot, shape_.head_dim, shape_.n_gates, c.row(gates_, row), cache.value_scales);
    }

    void prepare_queries(const Context& c, int row, float* heads) const {
        const int d = shape_.head_dim;
        float* q = c.row(q_, row);
        std::copy(q, q + n_heads_ * d, heads);
        for (int h = 0; h < n_heads_; ++h) {
            if (q_norm_.data) rms_norm(heads + h * d, q_norm_.data, eps_, d, heads + h * d);
            turn(c, row, 0, heads + h * d);
        }
        put_side_by_side(heads, n_heads_, d, q);
        if (!weighted_) return;
        float* weights = c.row(weights_, row);
        for (int h = 0; h < n_heads_; ++h) weights[h] *= scale_;
    }

    /// The key of the pool that ends with a row, in the place of the row's.
    void keep_pool(const Context& c, const SelectPlan::Row& end, float* rows) const {
        const LayerCache& cache = c.workspace.cache(layer_);
        const int64_t* slots = c.step.groups[group_].by_position(end.sequence) + end.n_keys - pool_;
        for (int i = 0; i < pool_; ++i) read_index_row(cache, shape_, slots[i], rows + i * shape_.width());
        alignas(64) float key[kMaxHeadDim];
        for (int i = 0; i < shape_.head_dim; i += kLanes) {
            const int n = std::min(kLanes, shape_.head_dim - i);
            store_some(key + i, shape_.n_gates ? gated_mean(rows, i, n) : mean(rows, i, n), n);
        }
        if (!shape_.n_gates) {
            rms_norm(key, norm_.data, eps_, shape_.head_dim, key);
            turn(c, end.row, pool_ - 1, key);
        }
        keep_index_key(cache, shape_, slots[pool_ - 1], key);
    }

    /// n channels from `channel` on.
    Floats mean(const float* rows, int channel, int n) const {
        Floats total = all(0.0f);
        for (int i = 0; i < pool_; ++i) total = add(total, load_some(rows + i * shape_.width() + channel, n));
        return div(total, all(static_cast<float>(pool_)));
    }

    Floats gated_mean(const float* rows, int channel, int n) const {
        const auto gate = [&](int i) {
            return add(load_some(rows + i * shape_.width() + shape_.head_dim + channel, n), load_some(gate_bias_.data + i * shape_.head_dim + channel, n));
        };
        Floats greatest = gate(0), total = all(0.0f), weighted = all(0.0f);
        for (int i = 1; i < pool_; ++i) greatest = max(greatest, gate(i));
        for (int i = 0; i < pool_; ++i) {
            const Floats weight = exp(sub(gate(i), greatest));
            total = add(total, weight);
            weighted = fma(weight, load_some(rows + i * shape_.width() + channel, n), weighted);
        }
        return div(weighted, total);
    }

    /// The scores of the pools' last places become those of the pools, and the best pools and what is behind them the row's list.
    void choose_pools(int index, int thread) const {
        const SelectPlan::Row& row = plan_->row(index);
        float* scores = plan_->scores(index, 0);
        const int n = row.n_keys / pool_;
        for (int p = 0; p < n; ++p) scores[p] = scores[p * pool_ + pool_ - 1];
        int32_t* const first = selected_->of(row.row, 0);
        int32_t* out = first;
        choose(scores, n, n_pools_, plan_->ranks(thread), [&](int p) {
            for (int key = p * pool_; key < (p + 1) * pool_; ++key) *out++ = key;
        });
        for (int key = n * pool_; key < row.n_keys; ++key) *out++ = key;
        selected_->count(row.row, 0) = static_cast<int>(out - first);
    }

    int layer_, n_heads_;
    IndexShape shape_;
    int pool_, n_pools_, q_, k_;
    bool weighted_;
    int weights_, gates_;
    Vector gate_bias_, q_norm_, norm_, norm_bias_;
    float eps_;
    size_t rotary_;
    int half_;
    float scale_;
    size_t group_;
    std::vector<float> same_weights_;  // [n_heads] where a row brings none
    ThreadRows& own_rows_;
    PoolPlan* pools_;
    SelectPlan* plan_;
    Selected* selected_;
};

LANDRACE_OPERATION(select_pools, SelectPools)

}  // namespace LANDRACE_ISA
}  // namespace landrace
