// A key that is its own value into the cache: normalised, and its last channels turned, neighbours together.
#pragma once

#include <stdexcept>

#include "pair_turning.inl"

namespace landrace {
namespace LANDRACE_ISA {

class KeepRow final : public Operation {
public:
    static constexpr Field kSchema[] = {
        integer_field("layer"), integer_field("n_heads"), integer_field("rank"), integer_field("rope_dim"), buffer_field("x"), vector_field("norm"),
        number_field("eps"), integer_field("rotary"), integer_field("rotary_half"), optional(integer_field("group")),
    };

    KeepRow(const Fields& fields, Workspace& workspace)
        : layer_(static_cast<int>(fields.integer("layer"))), shape_(latent_shape(fields)), x_(fields.buffer("x")), norm_(fields.vector("norm")),
          eps_(fields.number("eps")), turning_(fields, shape_.rank), group_(static_cast<size_t>(fields.integer("group"))) {
        workspace.expect(x_, shape_.rank);
        if (norm_.size != shape_.rank || shape_.rope_dim) throw std::invalid_argument("a norm has a weight for each channel of a key");
        workspace.write_layer(layer_, shape_, static_cast<int>(group_));
    }

    void check(const Step& step) const override { turning_.check(step); }

    void run(const Context& c, int thread) override {
        const RotaryTable& table = c.step.rotary[turning_.table];
        c.share(thread, c.step.n_rows, [&](int row) {
            alignas(64) float key[kMaxHeadDim] = {};
            rms_norm(c.row(x_, row), norm_.data, eps_, shape_.rank, key);
            rotate_pairs(key, shape_.rank, table, table.rows[row], turning_.half);
            keep_key(c.workspace.cache(layer_), shape_, c.step.groups[group_].write_slots[row], key);
        });
    }

private:
    int layer_;
    LatentShape shape_;
    int x_;
    Vector norm_;
    float eps_;
    PairTurning turning_;
    size_t group_;
};

LANDRACE_OPERATION(keep_row, KeepRow)

}  // namespace LANDRACE_ISA
}  // namespace landrace
