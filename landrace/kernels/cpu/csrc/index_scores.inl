// Scores of keys by all heads of an indexer together: the sum over heads of weight * relu(q k), added up in order.
#pragma once

#include "select_plan.inl"

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

/// Heads [n_heads, head_dim] as score_tiles takes them: the channels of those that are scored together lie side by side.
inline void put_side_by_side(const float* heads, int n_heads, int head_dim, float* out) {
    for (int h = 0; h < n_heads;) {
        const int together = h + kHeadsScored <= n_heads ? kHeadsScored : 1;
        for (int channel = 0; channel < head_dim; ++channel)
            for (int r = 0; r < together; ++r) *out++ = heads[(h + r) * head_dim + channel];
        h += together;
    }
}

template <CacheType type>
void score_typed(
    const Context& c, size_t group, int layer, const IndexShape& shape, SelectPlan& plan, const SelectPlan::Piece& piece, const float* queries,
    const float* weights, int n_heads
) {
    const PieceKeys keys = keys_of(c, group, c.workspace.cache(layer), shape, plan.row(piece.row), piece.chunk);
    float* scores = plan.scores(piece.row, 0) + keys.base;
    int t = 0;
    for (; t + 2 <= keys.n_tiles; t += 2)
        score_tiles<type, 2>(queries, weights, n_heads, shape.head_dim, keys.tiles + t, keys.scales + t, scores + t * kTile);
    if (t < keys.n_tiles) score_tiles<type, 1>(queries, weights, n_heads, shape.head_dim, keys.tiles + t, keys.scales + t, scores + t * kTile);
}

/// Scores of a piece's keys. queries: as put_side_by_side leaves them; weights [n_heads].
inline void score_piece(
    const Context& c, size_t group, int layer, const IndexShape& shape, SelectPlan& plan, const SelectPlan::Piece& piece, const float* queries,
    const float* weights, int n_heads
) {
    switch (c.workspace.cache(layer).type) {
        case CacheType::f32: return score_typed<CacheType::f32>(c, group, layer, shape, plan, piece, queries, weights, n_heads);
        case CacheType::f16: return score_typed<CacheType::f16>(c, group, layer, shape, plan, piece, queries, weights, n_heads);
        case CacheType::bf16: return score_typed<CacheType::bf16>(c, group, layer, shape, plan, piece, queries, weights, n_heads);
        case CacheType::i8: return score_typed<CacheType::i8>(c, group, layer, shape, plan, piece, queries, weights, n_heads);
        case CacheType::i4: break;  // An indexer's keys are not kept so.
    }
}

}  // namespace LANDRACE_ISA
}  // namespace landrace
