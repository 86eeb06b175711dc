// Compressed rows into the cache: each is the sum of what is kept of `ratio` positions, or of twice as many, channel by channel
// weighted by a softmax over positions; normalised, and turned as the first of its positions is. The row of a step that is the
// last of those positions makes it, out of the cache alone, and in order of position: so it does not matter how they were cut.
#pragma once

#include <algorithm>
#include <stdexcept>

#include "attend_plan.inl"
#include "pair_turning.inl"
#include "select_plan.inl"

namespace landrace {
namespace LANDRACE_ISA {

class Compress final : public Operation {
public:
    static constexpr Field kSchema[] = {
        integer_field("layer"), optional(integer_field("n_heads")), optional(integer_field("rank")), optional(integer_field("rope_dim")),
        optional(integer_field("head_dim")), integer_field("inputs"), integer_field("width"), integer_field("ratio"), vector_field("bias"), vector_field("norm"),
        number_field("eps"), integer_field("rotary"), integer_field("rotary_half"), optional(integer_field("group")),
    };

    Compress(const Fields& fields, Workspace& workspace)
        : layer_(static_cast<int>(fields.integer("layer"))), of_index_(fields.has("head_dim")), latents_(of_index_ ? LatentShape{} : latent_shape(fields)),
          index_(of_index_ ? index_shape(fields) : IndexShape{}), channels_(of_index_ ? index_.head_dim : latents_.rank),
          inputs_(static_cast<int>(fields.integer("inputs"))), input_(input_shape(fields)), ratio_(static_cast<int>(fields.integer("ratio"))),
          bias_(fields.vector("bias")), norm_(fields.vector("norm")), eps_(fields.number("eps")), turning_(fields, channels_),
          group_(static_cast<size_t>(fields.integer("group"))) {
        parts_ = input_.width / (2 * channels_);
        if (ratio_ < 2 || parts_ < 1 || parts_ > 2 || input_.width != 2 * parts_ * channels_) throw std::invalid_argument("rows cannot be compressed from that");
        if (bias_.size != ratio_ * parts_ * channels_ || norm_.size != channels_) throw std::invalid_argument("there is a bias for each place, and a norm");
        ends_ = &workspace.state<ClosingPlan>(ratio_);
        of_inputs_ = static_cast<size_t>(workspace.read_layer(inputs_, input_));
        if (of_index_) workspace.write_layer(layer_, index_, static_cast<int>(group_));
        else workspace.write_layer(layer_, latents_, static_cast<int>(group_));
    }

    void check(const Step& step) const override {
        turning_.check(step);
        if (step.groups[group_].every != ratio_) throw std::out_of_range("entries stand for another number of positions");
        expect_seen(step, of_inputs_, {Mask::Kind::sliding, parts_ * ratio_});
        const RotaryTable& table = step.rotary[turning_.table];
        for (int row = 0; row < step.n_rows; ++row)
            if ((step.positions[row] + 1) % ratio_ == 0) expect_within(table.rows[row] - ratio_ + 1, table.n_table_rows, "row of the angles");
    }

    void run(const Context& c, int thread) override {
        const RotaryTable& table = c.step.rotary[turning_.table];
        c.share(thread, static_cast<int>(ends_->ends().size()), [&](int index) {
            const SelectPlan::Row at = ends_->ends()[static_cast<size_t>(index)];
            alignas(64) float compressed[kMaxHeadDim], key[kMaxHeadDim] = {};
            for (int channel = 0; channel < channels_; channel += kLanes) sum_up(c, at, channel, std::min(kLanes, channels_ - channel), compressed + channel);
            rms_norm(compressed, norm_.data, eps_, channels_, key);
            rotate_pairs(key, channels_, table, table.rows[at.row] - ratio_ + 1, turning_.half);
            const LayerCache& cache = c.workspace.cache(layer_);
            const int64_t slot = c.step.groups[group_].write_slots[at.row];
            if (of_index_) keep_index_key(cache, index_, slot, key);
            else keep_key(cache, latents_, slot, key);
        });
    }

private:
    /// `n` channels from `channel` on.
    void sum_up(const Context& c, const SelectPlan::Row& at, int channel, int n, float* out) const {
        const int span = parts_ * ratio_;
        const int64_t first = c.step.positions[at.row] + 1 - span;
        const LayerCache& cache = c.workspace.cache(inputs_);
        const int64_t* slots = c.step.groups[of_inputs_].by_position(at.sequence);
        const auto begin = static_cast<int>(std::max<int64_t>(0, -first));
        const auto values = [&](int k) { return cache.inputs(input_, slots[first + k]) + k / ratio_ * channels_ + channel; };
        const auto gate = [&](int k) {
            const float* bias = bias_.data + (k % ratio_ * parts_ + k / ratio_) * channels_ + channel;
            return add(load_some(values(k) + parts_ * channels_, n), load_some(bias, n));
        };
        Floats top = gate(begin);
        for (int k = begin + 1; k < span; ++k) top = max(top, gate(k));
        Floats weights = all(0.0f), sums = all(0.0f);
        for (int k = begin; k < span; ++k) {
            const Floats weight = exp(sub(gate(k), top));
            weights = add(weights, weight);
            sums = fma(weight, load_some(values(k), n), sums);
        }
        store_some(out, div(sums, weights), n);
    }

    int layer_;
    bool of_index_;
    LatentShape latents_;
    IndexShape index_;
    int channels_, inputs_;
    InputShape input_;
    int ratio_, parts_ = 0;
    Vector bias_, norm_;
    float eps_;
    PairTurning turning_;
    size_t group_, of_inputs_ = 0;
    ClosingPlan* ends_ = nullptr;
};

LANDRACE_OPERATION(compress, Compress)

}  // namespace LANDRACE_ISA
}  // namespace landrace
