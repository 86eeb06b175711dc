// Rotation of queries and keys, head norms, and the way of keys and values into the cache.
#pragma once

#include <stdexcept>

#include "cached_heads.inl"
#include "cached_int4.inl"
#include "operation.h"

namespace landrace {
namespace LANDRACE_ISA {

enum class HeadNorm : int { none, before_rope, after_rope };
/// What Python calls them, in order.
constexpr const char* kHeadNorms[] = {"none", "before_rope", "after_rope"};

/// Rotation, head norms, and the way into the cache, for rows of one layer.
struct RopeJob {
    HeadShape shape;
    HeadNorm norm;
    bool over_all_heads;  // one mean square for all of q's heads, and one for k's
    const float* q_norm;  // [head_dim], or of all heads; null: without a weight
    const float* k_norm;
    float eps;
    float temperature;            // q is multiplied by 1 + temperature * ln(1 + (position + 1) / floor), floor 0: it is not
    int floor;
    const int64_t* positions;     // [rows]
    int rotary_half;              // channels i and i + rotary_half turn together; 0: no rotation
    const float* cos;             // [table rows, rotary_half]
    const float* sin;
    const int64_t* table_rows;    // [rows]
    float* q;                     // [rows, n_heads * head_dim], rotated in place and multiplied by `scale`
    float* k;                     // [rows, n_kv_heads * head_dim], rotated in place
    const float* v;
    float scale;
    const int64_t* write_slots;   // [rows]
    LayerCache cache;
};

/// Norm and rotation of a row's heads, in place.
inline void turn(const RopeJob& job, int64_t row, const float* norm, int n_heads, float* heads) {
    const int d = job.shape.head_dim;
    const auto normalise = [&](HeadNorm when) {
        if (job.norm != when) return;
        if (job.over_all_heads) return rms_norm(heads, norm, job.eps, n_heads * d, heads);
        for (int h = 0; h < n_heads; ++h) rms_norm(heads + h * d, norm, job.eps, d, heads + h * d);
    };
    normalise(HeadNorm::before_rope);
    if (job.rotary_half) {
        const int64_t at = job.table_rows[row] * job.rotary_half;
        for (int h = 0; h < n_heads; ++h) rotate(heads + h * d, job.cos + at, job.sin + at, job.rotary_half);
    }
    normalise(HeadNorm::after_rope);
}

inline float query_factor(const RopeJob& job, int64_t row) {
    if (job.floor == 0) return job.scale;
    const int64_t steps = (job.positions[row] + 1) / job.floor;
    return job.scale * static_cast<float>(1 + static_cast<double>(job.temperature) * natural_log(static_cast<double>(1 + steps)));
}

/// Queries of a row are turned and scaled in place, its keys are turned and go to the cache with its values.
inline void rope(const RopeJob& job, int64_t row) {
    const HeadShape& s = job.shape;
    const LayerCache& cache = job.cache;
    const int64_t size = element_bytes(cache.type);
    const int n_q = s.n_heads * s.head_dim;
    float* q = job.q + row * n_q;
    turn(job, row, job.q_norm, s.n_heads, q);
    const Floats factor = all(query_factor(job, row));
    for (int i = 0; i < n_q; i += kLanes) {
        const int now = n_q - i < kLanes ? n_q - i : kLanes;
        store_some(q + i, mul(load_some(q + i, now), factor), now);
    }
    const int64_t slot = job.write_slots[row], lane = slot % kTile;
    turn(job, row, job.k_norm, s.n_kv_heads, job.k + row * s.n_kv_heads * s.head_dim);
    for (int h = 0; h < s.n_kv_heads; ++h) {
        const float* head = job.k + (row * s.n_kv_heads + h) * s.head_dim;
        const float* v = job.v + (row * s.n_kv_heads + h) * s.head_dim;
        const int64_t tile = cache.tile_of(s, slot, h);
        if (cache.type == CacheType::i4) {
            store_int4_head(cache, s, tile, lane, head, v);
            continue;
        }
        float k_inverse = 0.0f, v_inverse = 0.0f;
        if (cache.type == CacheType::i8) {
            cache.key_scales[tile * kTile + lane] = int8_scale(head, s.head_dim, k_inverse);
            cache.value_scales[tile * kTile + lane] = int8_scale(v, s.head_dim, v_inverse);
        }
        uint8_t* keys = cache.tiles + tile * cache.tile_bytes(s);
        uint8_t* values = keys + cache.key_bytes(s) + lane * cache.value_bytes(s);
        store_head(cache.type, head, s.head_dim, k_inverse, keys + lane * size, kTile);
        store_head(cache.type, v, s.head_dim, v_inverse, values, 1);
    }
}

class Rope final : public Operation {
public:
    static constexpr Field kSchema[] = {
        integer_field("layer"), integer_field("n_heads"), integer_field("n_kv_heads"), integer_field("head_dim"),
        buffer_field("q"), buffer_field("k"), buffer_field("v"), optional(integer_field("rotary")), optional(integer_field("rotary_half")),
        number_field("scale"), optional(choice_field("norm", kHeadNorms)), optional(flag_field("over_all_heads")), optional(vector_field("q_norm")),
        optional(vector_field("k_norm")), optional(number_field("eps")), optional(number_field("temperature")), optional(integer_field("floor")),
        optional(integer_field("group")),
    };

    Rope(const Fields& fields, Workspace& workspace)
        : layer_(static_cast<int>(fields.integer("layer"))), rotary_(static_cast<size_t>(fields.integer("rotary"))),
          group_(static_cast<size_t>(fields.integer("group"))), q_(fields.buffer("q")), k_(fields.buffer("k")), v_(fields.buffer("v")) {
        job_.shape = head_shape(fields);
        job_.norm = fields.choice<HeadNorm>("norm");
        job_.over_all_heads = fields.flag("over_all_heads");
        job_.q_norm = fields.vector("q_norm").data;
        job_.k_norm = fields.vector("k_norm").data;
        job_.eps = fields.number("eps");
        job_.rotary_half = static_cast<int>(fields.integer("rotary_half"));
        job_.scale = fields.number("scale");
        job_.temperature = fields.number("temperature");
        job_.floor = static_cast<int>(fields.integer("floor"));
        const HeadShape& s = job_.shape;
        workspace.expect(q_, s.n_heads * s.head_dim);
        workspace.expect(k_, s.n_kv_heads * s.head_dim);
        workspace.expect(v_, s.n_kv_heads * s.head_dim);
        if (job_.rotary_half < 0 || 2 * job_.rotary_half > s.head_dim)
            throw std::invalid_argument(std::to_string(s.head_dim) + " channels cannot turn in " + std::to_string(job_.rotary_half) + " pairs");
        if (job_.floor < 0 || (job_.floor == 0) != !fields.has("temperature")) throw std::invalid_argument("a temperature needs a floor of at least 1");
        expect_norm(fields.vector("q_norm"), s.n_heads);
        expect_norm(fields.vector("k_norm"), s.n_kv_heads);
        workspace.write_layer(layer_, s, static_cast<int>(fields.integer("group")));
    }

    void check(const Step& step) const override {
        if (job_.rotary_half) expect_within(static_cast<int64_t>(rotary_), static_cast<int64_t>(step.rotary.size()), "table of angles");
    }

    void run(const Context& c, int thread) override {
        RopeJob now = job_;
        if (now.rotary_half) {
            const RotaryTable& table = c.step.rotary[rotary_];
            now.cos = table.cos;
            now.sin = table.sin;
            now.table_rows = table.rows;
        }
        now.q = c.workspace.rows(q_);
        now.k = c.workspace.rows(k_);
        now.v = c.workspace.rows(v_);
        now.positions = c.step.positions;
        now.write_slots = c.step.groups[group_].write_slots;
        now.cache = c.workspace.cache(layer_);
        c.share(thread, c.step.n_rows, [&](int row) { rope(now, row); });
    }

private:
    void expect_norm(const Vector& weight, int n_heads) const {
        if (weight.data && weight.size != job_.shape.head_dim * (job_.over_all_heads ? n_heads : 1))
            throw std::invalid_argument("a norm over heads needs a weight for each of its channels, not " + std::to_string(weight.size));
    }

    int layer_;
    size_t rotary_, group_;
    int q_, k_, v_;
    RopeJob job_{};
};

LANDRACE_OPERATION(rope, Rope)

}  // namespace LANDRACE_ISA
}  // namespace landrace
