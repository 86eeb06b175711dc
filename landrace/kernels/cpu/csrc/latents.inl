// Attention over latents that lie in a paged cache: all heads share a key, whose first channels are its value too. A row sees
// all that its mask shows, or a list of positions, which is taken in chunks of 256 as positions are.
//
// Sixteen channels of a key are a vector here, not one channel of sixteen keys: so a value can be read where its key
// lies, and nothing is kept twice. A score is sixteen sums, added in one fixed tree.
#pragma once

#include "attend.inl"

namespace landrace {
namespace LANDRACE_ISA {

/// Keys that are scored together.
constexpr int kLatentsTogether = LANDRACE_LANES == 512 ? 4 : 2;

/// Adds the products of channels first <= c < end of R queries, `width` apart, and kLatentsTogether keys to acc.
template <CacheType type, int R>
inline void add_products(const float* queries, int width, const uint8_t* const* keys, int first, int end, Floats acc[R][kLatentsTogether]) {
    for (int c = first; c < end; c += kLanes) {
        Floats k[kLatentsTogether];
        LANDRACE_UNROLL for (int t = 0; t < kLatentsTogether; ++t) k[t] = load_elements<type>(keys[t], c);
        LANDRACE_UNROLL for (int r = 0; r < R; ++r) {
            const Floats q = load(queries + static_cast<int64_t>(r) * width + c);
            LANDRACE_UNROLL for (int t = 0; t < kLatentsTogether; ++t) acc[r][t] = fma(q, k[t], acc[r][t]);
        }
    }
}

/// Scores [R, keys] of R queries [R, padded_dim] with kLatentsTogether keys, which lie in `slots`.
template <CacheType type, int R>
inline void latent_scores(
    const LayerCache& cache, const LatentShape& s, const int64_t* slots, const uint8_t* const* keys, const float* queries, float* scores
) {
    Floats acc[R][kLatentsTogether];
    const auto clear = [&] {
        LANDRACE_UNROLL for (int r = 0; r < R; ++r)
            LANDRACE_UNROLL for (int t = 0; t < kLatentsTogether; ++t) acc[r][t] = all(0.0f);
    };
    clear();
    add_products<type, R>(queries, s.padded_dim(), keys, 0, s.padded_rank(), acc);
    if (type == CacheType::i8) {
        for (int r = 0; r < R; ++r)
            for (int t = 0; t < kLatentsTogether; ++t) scores[r * kKeysPerChunk + t] = sum(acc[r][t]) * cache.value_scales[slots[t]];
        clear();
    }
    add_products<type, R>(queries, s.padded_dim(), keys, s.padded_rank(), s.padded_dim(), acc);
    for (int r = 0; r < R; ++r)
        for (int t = 0; t < kLatentsTogether; ++t) {
            float& score = scores[r * kKeysPerChunk + t];
            score = type == CacheType::i8 ? std::fma(sum(acc[r][t]), cache.key_scales[slots[t]], score) : sum(acc[r][t]);
        }
}

/// The slot of a key of the chunk that starts at `base`. Behind the last of its n_keys, up to a whole tile, it is one that
/// may be read.
inline int64_t slot_of(const AttendJob& job, int64_t base, int key, int n_keys) {
    if (job.chosen) return job.slots[job.chosen[base + (key < n_keys ? key : n_keys - 1)]];
    return job.slots[base + key / kTile * kTile] + key % kTile;
}

template <CacheType type> void attend_each_row(const AttendJob& job, const LatentShape& latents, int chunk, Partial* partials, float* sums);

/// As attend_rows: R >= job.n_rows * job.n_heads.
template <CacheType type, int R>
void attend_latents(const AttendJob& job, const LatentShape& latents, int chunk, Partial* partials, float* sums) {
    const int n = job.n_rows * job.n_heads, width = latents.padded_dim();
    const int64_t base = static_cast<int64_t>(chunk) * kKeysPerChunk;
    const KeyRange first_row = seen_by(job, 0, base), last_row = seen_by(job, job.n_rows - 1, base);
    const int first_key = first_row.first, n_keys = last_row.end;
    if (first_key >= n_keys) {
        for (int i = 0; i < n; ++i) partials[i] = {-std::numeric_limits<float>::infinity(), 0.0f};
        return;
    }
    const int first_tile = first_key / kTile, n_tiles = (n_keys + kTile - 1) / kTile;
    int64_t slots[kKeysPerChunk];
    const uint8_t* keys[kKeysPerChunk + kTilesAhead * kTile];
    for (int key = first_tile * kTile; key < n_tiles * kTile; ++key) {
        slots[key] = slot_of(job, base, key, n_keys);
        keys[key] = job.cache.latent(latents, slots[key]);
    }
    std::fill_n(keys + n_tiles * kTile, kTilesAhead * kTile, keys[first_tile * kTile]);
    const ListedValues values{keys};
    const auto hidden = [&](int first, int end) { return are_finite<type>(job, slots, 0, values, first, end); };
    if (R > 1 && job.n_rows > 1 && !(hidden(first_row.first, last_row.first) && hidden(first_row.end, last_row.end)))
        return attend_each_row<type>(job, latents, chunk, partials, sums);

    alignas(64) float queries[R * (kMaxHeadDim + kMaxRopeDim)];
    for (int i = 0; i < R; ++i) {
        const int from = i < n ? i : n - 1;
        const float* q = job.q + (static_cast<int64_t>(from / job.n_heads) * latents.n_heads + job.first_head + from % job.n_heads) * latents.key_dim();
        float* to = queries + static_cast<int64_t>(i) * width;
        std::fill(to, to + width, 0.0f);
        std::copy(q, q + latents.rank, to);
        std::copy(q + latents.rank, q + latents.key_dim(), to + latents.padded_rank());
    }
    alignas(64) float scores[R * kKeysPerChunk];
    constexpr int together = R % 4 == 0 ? 4 : R;
    for (int key = first_tile * kTile; key < n_tiles * kTile; key += kLatentsTogether) {
        for (int i = 0; i < R; i += together)
            latent_scores<type, together>(
                job.cache, latents, slots + key, keys + key, queries + static_cast<int64_t>(i) * width, scores + i * kKeysPerChunk + key);
    }
    weigh_scores<R>(job, base, first_tile, n_tiles, scores, partials);
    weigh_by_scores<type, R>(job, slots, 0, values, first_key, n_keys, scores, sums);
}

template <CacheType type> void attend_latents_typed(const AttendJob& job, const LatentShape& latents, int chunk, Partial* partials, float* sums) {
    const int n = job.n_rows * job.n_heads;
    if (n == 1) attend_latents<type, 1>(job, latents, chunk, partials, sums);
    else if (n == 2) attend_latents<type, 2>(job, latents, chunk, partials, sums);
    else if (n <= 4) attend_latents<type, 4>(job, latents, chunk, partials, sums);
    else if (n <= 8) attend_latents<type, 8>(job, latents, chunk, partials, sums);
    else attend_latents<type, 12>(job, latents, chunk, partials, sums);
}

template <CacheType type> void attend_each_row(const AttendJob& job, const LatentShape& latents, int chunk, Partial* partials, float* sums) {
    for (int row = 0; row < job.n_rows; ++row) {
        AttendJob one = job;
        one.n_rows = 1;
        one.first_position += row;
        one.q += static_cast<int64_t>(row) * latents.n_heads * latents.key_dim();
        const int64_t at = static_cast<int64_t>(row) * job.n_heads;
        attend_latents_typed<type>(one, latents, chunk, partials + at, sums + at * latents.padded_rank());
    }
}

/// As `attend`; job.shape is latents.heads(), job.q is [rows, n_heads * key_dim].
inline void attend_latents(const AttendJob& job, const LatentShape& latents, int chunk, Partial* partials, float* sums) {
    switch (job.cache.type) {
        case CacheType::f32: return attend_latents_typed<CacheType::f32>(job, latents, chunk, partials, sums);
        case CacheType::f16: return attend_latents_typed<CacheType::f16>(job, latents, chunk, partials, sums);
        case CacheType::bf16: return attend_latents_typed<CacheType::bf16>(job, latents, chunk, partials, sums);
        case CacheType::i8: return attend_latents_typed<CacheType::i8>(job, latents, chunk, partials, sums);
        case CacheType::i4: break;  // Latents are not kept so.
    }
}

}  // namespace LANDRACE_ISA
}  // namespace landrace
