// Latents, normalised, and the channels beside them, rotated, into the cache; and the rotated channels of queries, times
// `scale`, to where attention reads them: behind the absorbed ones of their head.
#pragma once

#include <stdexcept>
#include <string>

#include "cached_heads.inl"
#include "operation.h"

namespace landrace {
namespace LANDRACE_ISA {

class KeepLatents final : public Operation {
public:
    static constexpr Field kSchema[] = {
        integer_field("layer"),  integer_field("n_heads"), integer_field("rank"), integer_field("rope_dim"), buffer_field("q"),
        buffer_field("latents"), buffer_field("queries"),  vector_field("norm"),  number_field("eps"),       optional(integer_field("rotary")),
        optional(integer_field("rotary_half")), number_field("scale"), optional(integer_field("group")),
    };

    KeepLatents(const Fields& fields, Workspace& workspace)
        : layer_(static_cast<int>(fields.integer("layer"))), shape_(latent_shape(fields)), rotary_(static_cast<size_t>(fields.integer("rotary"))),
          half_(static_cast<int>(fields.integer("rotary_half"))), group_(static_cast<size_t>(fields.integer("group"))), q_(fields.buffer("q")),
          latents_(fields.buffer("latents")), queries_(fields.buffer("queries")), norm_(fields.vector("norm")), eps_(fields.number("eps")),
          scale_(fields.number("scale")) {
        head_width_ = workspace.checked_width(q_) / shape_.n_heads;
        workspace.expect(q_, head_width_ * shape_.n_heads);
        if (head_width_ < shape_.rope_dim) throw std::invalid_argument("a query is narrower than its rotated channels");
        workspace.expect(latents_, shape_.key_dim());
        workspace.expect(queries_, shape_.n_heads * shape_.key_dim());
        if (norm_.size != shape_.rank) throw std::invalid_argument("the norm of a latent needs a weight for each of its channels");
        if (half_ < 0 || 2 * half_ > shape_.rope_dim)
            throw std::invalid_argument(std::to_string(shape_.rope_dim) + " channels cannot turn in " + std::to_string(half_) + " pairs");
        workspace.write_layer(layer_, shape_, static_cast<int>(fields.integer("group")));
    }

    void check(const Step& step) const override {
        if (half_) expect_within(static_cast<int64_t>(rotary_), static_cast<int64_t>(step.rotary.size()), "table of angles");
    }

    void run(const Context& c, int thread) override {
        c.share(thread, c.step.n_rows, [&](int row) {
            turn_queries(c, row);
            keep(c, row);
        });
    }

private:
    /// The rotated channels of a head or a key, in place.
    void turn(const Context& c, int row, float* channels) const {
        if (!half_) return;
        const RotaryTable& table = c.step.rotary[rotary_];
        const int64_t at = table.rows[row] * half_;
        rotate(channels, table.cos + at, table.sin + at, half_);
    }

    void turn_queries(const Context& c, int row) const {
        const int n = shape_.rope_dim;
        for (int h = 0; h < shape_.n_heads; ++h) {
            const float* from = c.row(q_, row) + (h + 1) * head_width_ - n;
            float* to = c.row(queries_, row) + (h + 1) * shape_.key_dim() - n;
            std::copy(from, from + n, to);
            turn(c, row, to);
            for (int i = 0; i < n; ++i) to[i] *= scale_;
        }
    }

    void keep(const Context& c, int row) const {
        const LayerCache& cache = c.workspace.cache(layer_);
        // Padding is read with the channels, so it is zero.
        alignas(64) float latent[kMaxHeadDim] = {}, beside[kMaxRopeDim] = {};
        const int padded_rank = shape_.padded_rank(), padded_beside = shape_.padded_dim() - padded_rank;
        const float* x = c.row(latents_, row);
        rms_norm(x, norm_.data, eps_, shape_.rank, latent);
        std::copy(x + shape_.rank, x + shape_.key_dim(), beside);
        turn(c, row, beside);
        const int64_t slot = c.step.groups[group_].write_slots[row];
        float latent_inverse = 0.0f, beside_inverse = 0.0f;
        if (cache.type == CacheType::i8) {
            cache.value_scales[slot] = int8_scale(latent, shape_.rank, latent_inverse);
            cache.key_scales[slot] = int8_scale(beside, shape_.rope_dim, beside_inverse);
        }
        uint8_t* at = cache.latent(shape_, slot);
        store_head(cache.type, latent, padded_rank, latent_inverse, at, 1);
        store_head(cache.type, beside, padded_beside, beside_inverse, at + padded_rank * element_bytes(cache.type), 1);
    }

    int layer_;
    LatentShape shape_;
    size_t rotary_;
    int half_;
    size_t group_;
    int q_, latents_, queries_, head_width_;
    Vector norm_;
    float eps_, scale_;
};

LANDRACE_OPERATION(keep_latents, KeepLatents)

}  // namespace LANDRACE_ISA
}  // namespace landrace
