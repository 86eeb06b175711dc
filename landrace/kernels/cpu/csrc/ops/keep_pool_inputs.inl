// What keys of pools are made of into the cache: each position's key, normalised where there is a norm, and its gates where there
// are any.
#pragma once

#include <stdexcept>

#include "prepared_rows.inl"
#include "select_plan.inl"

namespace landrace {
namespace LANDRACE_ISA {

class KeepPoolInputs final : public Operation {
public:
    static constexpr Field kSchema[] = {
        integer_field("layer"), integer_field("head_dim"), optional(integer_field("n_gates")), buffer_field("k"), optional(buffer_field("gates")),
        optional(vector_field("norm")), optional(vector_field("norm_bias")), optional(number_field("eps")), optional(integer_field("group")),
    };

    KeepPoolInputs(const Fields& fields, Workspace& workspace)
        : layer_(static_cast<int>(fields.integer("layer"))), shape_(index_shape(fields)), k_(fields.buffer("k")), gates_(fields.buffer("gates")),
          norm_(fields.vector("norm")), norm_bias_(fields.vector("norm_bias")), eps_(fields.number("eps")),
          group_(static_cast<size_t>(fields.integer("group"))) {
        workspace.expect(k_, shape_.head_dim);
        if (fields.has("gates") != (shape_.n_gates > 0)) throw std::invalid_argument("gates are kept where there are any");
        if (shape_.n_gates) workspace.expect(gates_, shape_.n_gates);
        if (norm_.size != norm_bias_.size || (norm_.data && norm_.size != shape_.head_dim))
            throw std::invalid_argument("the norm of a key needs a weight and a bias for each of its channels");
        workspace.write_layer(layer_, shape_, static_cast<int>(group_));
    }

    void run(const Context& c, int thread) override {
        c.share(thread, c.step.n_rows, [&](int row) {
            const LayerCache& cache = c.workspace.cache(layer_);
            const int64_t slot = c.step.groups[group_].write_slots[row];
            alignas(64) float normed[kMaxHeadDim];
            const float* key = c.row(k_, row);
            if (norm_.data) {
                layer_norm(key, norm_.data, norm_bias_.data, eps_, shape_.head_dim, normed);
                key = normed;
            }
            keep_index_key(cache, shape_, slot, key);
            if (shape_.n_gates) keep_index_channels(cache, shape_, slot, shape_.head_dim, shape_.n_gates, c.row(gates_, row), cache.value_scales);
        });
    }

private:
    int layer_;
    IndexShape shape_;
    int k_, gates_;
    Vector norm_, norm_bias_;
    float eps_;
    size_t group_;
};

LANDRACE_OPERATION(keep_pool_inputs, KeepPoolInputs)

}  // namespace LANDRACE_ISA
}  // namespace landrace
