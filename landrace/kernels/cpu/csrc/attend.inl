// Attention over a paged cache, in place.
//
// Positions are taken in chunks of 256 from the start of the sequence. Each chunk gives a partial softmax, and the
// partial results are merged in order. A row's arithmetic depends on its own position only, so it does not matter which
// rows share a pass, how a prompt was cut, or whether chunks were computed side by side.
#pragma once

#include "cached_elements.inl"
#include "cached_int4.inl"
#include "partial_softmax.inl"

namespace landrace {
namespace LANDRACE_ISA {

/// scores [n_tiles, 16] of row and head `index` plus the head's slope times (position of the key - position of the row).
inline void add_distances(const AttendJob& job, int index, int64_t base, int first_tile, int n_tiles, float* scores) {
    static constexpr float lanes[kLanes] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    const Floats slope = all(job.slopes[job.first_head + index % job.n_heads]);
    const int64_t position = job.first_position + index / job.n_heads;
    for (int tile = first_tile; tile < n_tiles; ++tile) {
        const Floats distance = add(all(static_cast<float>(base + tile * kTile - position)), load(lanes));
        store(scores + tile * kTile, fma(slope, distance, load(scores + tile * kTile)));
    }
}

/// Whether the values of keys first <= key < end of a chunk are numbers. slots: those of the chunk's keys.
template <CacheType type, class Values>
inline bool are_finite(const AttendJob& job, const int64_t* slots, int kv_head, const Values& values, int first, int end) {
    const HeadShape& s = job.shape;
    Ints greatest_magnitude = all_ints(0);
    for (int key = first; key < end; ++key) {
        if constexpr (type >= CacheType::i8) {
            const int64_t tile = job.cache.tile_of(s, slots[key], kv_head), lane = slots[key] % kTile;
            if constexpr (type == CacheType::i4) {
                if (!is_int4_number(job.cache.groups(job.cache.value_scales, s, tile) + lane, job.cache.n_groups(s))) return false;
            } else {
                greatest_magnitude = max(greatest_magnitude, magnitude(all(job.cache.value_scales[tile * kTile + lane])));
            }
        } else {
            for (int c = 0; c < s.head_dim; c += kLanes) {
                const Floats value = load_elements<type>(values.at(key), c);
                const int n = s.head_dim - c < kLanes ? s.head_dim - c : kLanes;
                greatest_magnitude = max(greatest_magnitude, magnitude(where_lane(0, n, value, all(0.0f))));
            }
        }
    }
    return greatest(greatest_magnitude) < 0x7f800000;
}

/// Of n <= R rows and heads' scores [R, keys] with tiles first_tile <= tile < n_tiles of the chunk that starts at `base`:
/// the weights e^(score - greatest score) in their place, zero where the mask hides a key, and the partial softmax.
template <int R>
void weigh_scores(const AttendJob& job, int64_t base, int first_tile, int n_tiles, float* scores, Partial* partials) {
    const int n = job.n_rows * job.n_heads;
    const Floats nothing = all(-std::numeric_limits<float>::infinity());
    for (int i = 0; i < R; ++i) {
        float* row = scores + i * kKeysPerChunk;
        const auto [first, end] = seen_by(job, (i < n ? i : n - 1) / job.n_heads, base);
        if (first >= end) {
            for (int tile = first_tile; tile < n_tiles; ++tile) store(row + tile * kTile, all(0.0f));
            if (i < n) partials[i] = {-std::numeric_limits<float>::infinity(), 0.0f};
            continue;
        }
        if (job.slopes) add_distances(job, i < n ? i : n - 1, base, first_tile, n_tiles, row);
        Floats top = nothing;
        for (int tile = first_tile; tile < n_tiles; ++tile) {
            const int from = first - tile * kTile, until = end - tile * kTile;
            Floats score = load(row + tile * kTile);
            if (from > 0 || until < kTile) {
                score = where_lane(from < 0 ? 0 : from < kTile ? from : kTile, until < 0 ? 0 : until < kTile ? until : kTile, score, nothing);
                store(row + tile * kTile, score);
            }
            top = max(top, score);
        }
        const float best = greatest(top);
        Floats total = all(0.0f);
        for (int tile = first_tile; tile < n_tiles; ++tile) {
            const Floats weight = exp(sub(load(row + tile * kTile), all(best)));
            store(row + tile * kTile, weight);
            total = add(total, weight);
        }
        if (i < n) partials[i] = {best, sum(total)};
    }
}

/// Values first_key <= key < n_keys times the weights in `scores`, into sums [n, padded_dim]. slots: those of the chunk's keys.
template <CacheType type, int R, class Values>
void weigh_by_scores(
    const AttendJob& job, const int64_t* slots, int kv_head, const Values& values, int first_key, int n_keys, float* scores, float* sums
) {
    const HeadShape& s = job.shape;
    const int n = job.n_rows * job.n_heads;
    const auto tile_at = [&](int key) { return job.cache.tile_of(s, slots[key], kv_head); };
    if (type == CacheType::i8)
        for (int key = first_key; key < n_keys; ++key)
            for (int i = 0; i < R; ++i) scores[i * kKeysPerChunk + key] *= job.cache.value_scales[tile_at(key) * kTile + slots[key] % kTile];
    const auto weigh = [&](auto rows, const float* weights, float* into) {
        constexpr int count = decltype(rows)::value;
        if constexpr (type == CacheType::i4) {
            const uint16_t* groups[kKeysPerChunk / kTile] = {};
            for (int tile = first_key / kTile; tile * kTile < n_keys; ++tile)
                groups[tile] = job.cache.groups(job.cache.value_scales, s, tile_at(tile * kTile));
            weigh_int4_values<count>(weights, values.tiles, groups, first_key, n_keys, job.cache.n_groups(s), into, s.padded_dim);
        } else {
            weigh_all_values<type, count>(weights, values, first_key, n_keys, into, s.padded_dim);
        }
    };
    if constexpr (R > 6) {
        // Sums of rows past n would fall outside: the last block covers what is left.
        constexpr int half = R / 2;
        alignas(64) float spare[half * kMaxHeadDim];
        weigh(std::integral_constant<int, half>(), scores, sums);
        weigh(std::integral_constant<int, half>(), scores + half * kKeysPerChunk, spare);
        const int rest = n - half > 0 ? n - half : 0;
        std::memcpy(sums + static_cast<int64_t>(half) * s.padded_dim, spare, sizeof(float) * static_cast<size_t>(rest) * static_cast<size_t>(s.padded_dim));
    } else {
        alignas(64) float spare[R * kMaxHeadDim];
        weigh(std::integral_constant<int, R>(), scores, spare);
        std::memcpy(sums, spare, sizeof(float) * static_cast<size_t>(n) * static_cast<size_t>(s.padded_dim));
    }
}

/// Queries of the job's n rows and heads, the first row's at `rows`, as [head_dim, R], the last one's again behind them. Then
/// R zeros, which int4 takes for the neighbours of an odd last channel.
template <int R> inline void gather_queries(const AttendJob& job, const float* rows, float* queries) {
    const HeadShape& s = job.shape;
    const int d = s.head_dim, n = job.n_rows * job.n_heads;
    for (int i = 0; i < R; ++i) {
        const int from = i < n ? i : n - 1;
        const float* q = rows + (static_cast<int64_t>(from / job.n_heads) * s.n_heads + job.first_head + from % job.n_heads) * d;
        for (int c = 0; c < d; ++c) queries[c * R + i] = q[c];
        queries[d * R + i] = 0.0f;
    }
}

/// As attend_rows, for one row and its list of positions, which is taken in chunks of 256 as positions are. Scores are those of
/// whole tiles, of which the chosen keys' are kept.
template <CacheType type, int R> void attend_chosen(const AttendJob& job, int chunk, Partial* partials, float* sums) {
    const HeadShape& s = job.shape;
    const LayerCache& cache = job.cache;
    const int kv_head = job.first_head / (s.n_heads / s.n_kv_heads);
    const int64_t base = static_cast<int64_t>(chunk) * kKeysPerChunk;
    const int n_keys = seen_by(job, 0, base).end;
    if (n_keys == 0) {
        for (int i = 0; i < job.n_heads; ++i) partials[i] = {-std::numeric_limits<float>::infinity(), 0.0f};
        return;
    }
    int64_t slots[kKeysPerChunk];
    const uint8_t *keys[kKeysPerChunk + kTilesAhead], *values[kKeysPerChunk + kTilesAhead * kTile];
    int n_tiles = 0, tile_of_key[kKeysPerChunk];
    for (int key = 0; key < n_keys; ++key) {
        slots[key] = job.slots[job.chosen[base + key]];
        const uint8_t* tile = cache.tiles + cache.tile_of(s, slots[key], kv_head) * cache.tile_bytes(s);
        if (n_tiles == 0 || keys[n_tiles - 1] != tile) keys[n_tiles++] = tile;
        tile_of_key[key] = n_tiles - 1;
        values[key] = tile + cache.key_bytes(s) + slots[key] % kTile * s.padded_dim * element_bytes(type);
    }
    std::fill_n(keys + n_tiles, kTilesAhead, values[0]);
    std::fill_n(values + n_keys, kTilesAhead * kTile, values[n_keys - 1]);

    alignas(64) float queries[(kMaxHeadDim + 1) * R], scores[R * kKeysPerChunk], lanes[R * kTile];
    gather_queries<R>(job, job.q, queries);
    for (int tile = 0, key = 0; tile < n_tiles; ++tile) {
        Floats out[R][1];
        tile_scores<type, R, 1>(queries, keys + tile, s.head_dim, out);
        for (int r = 0; r < R; ++r) store(lanes + r * kTile, out[r][0]);
        for (; key < n_keys && tile_of_key[key] == tile; ++key) {
            const int64_t lane = slots[key] % kTile;
            const float scale = type == CacheType::i8 ? cache.key_scales[cache.tile_of(s, slots[key], kv_head) * kTile + lane] : 1.0f;
            for (int r = 0; r < R; ++r) scores[r * kKeysPerChunk + key] = lanes[r * kTile + lane] * scale;
        }
    }
    weigh_scores<R>(job, base, 0, ceil_div(n_keys, kTile), scores, partials);
    weigh_by_scores<type, R>(job, slots, kv_head, ListedValues{values}, 0, n_keys, scores, sums);
}

template <CacheType type> void attend_each_row(const AttendJob& job, int chunk, Partial* partials, float* sums);

template <CacheType type, int R> void attend_rows(const AttendJob& job, int chunk, Partial* partials, float* sums) {
    if constexpr (type != CacheType::i4)  // Nothing is chosen of a cache in int4.
        if (job.chosen) return attend_chosen<type, R>(job, chunk, partials, sums);
    const HeadShape& s = job.shape;
    const int d = s.head_dim, n = job.n_rows * job.n_heads;
    const int kv_head = job.first_head / (s.n_heads / s.n_kv_heads);
    const int64_t base = static_cast<int64_t>(chunk) * kKeysPerChunk;
    // The first row sees the oldest keys, the last row the newest.
    const KeyRange first_row = seen_by(job, 0, base), last_row = seen_by(job, job.n_rows - 1, base);
    const int first_key = first_row.first, n_keys = last_row.end;
    if (first_key >= n_keys) {
        for (int i = 0; i < n; ++i) partials[i] = {-std::numeric_limits<float>::infinity(), 0.0f};
        return;
    }
    const int first_tile = first_key / kTile, n_tiles = (n_keys + kTile - 1) / kTile;

    // Behind the keys come the values, and behind those the next head's keys: so they are asked for.
    const uint8_t* keys[kKeysPerChunk / kTile + kTilesAhead];
    const uint8_t* tiles[kKeysPerChunk / kTile + kTilesAhead];
    for (int t = first_tile; t < n_tiles; ++t) {
        keys[t] = job.cache.tiles + job.cache.tile_of(s, job.slots[base + t * kTile], kv_head) * job.cache.tile_bytes(s);
        tiles[t] = keys[t] + job.cache.key_bytes(s);
    }
    for (int t = 0; t < kTilesAhead; ++t) {
        const int from = first_tile + t < n_tiles ? first_tile + t : first_tile;
        keys[n_tiles + t] = tiles[from];
        tiles[n_tiles + t] = keys[from] + job.cache.tile_bytes(s);
    }
    const TiledValues<type> values{tiles, s.padded_dim};
    // What some of the rows do not see has a weight of zero there. That hides a number, but not a NaN.
    const auto hidden = [&](int first, int end) { return are_finite<type>(job, job.slots + base, kv_head, values, first, end); };
    if (R > 1 && job.n_rows > 1 && !(hidden(first_row.first, last_row.first) && hidden(first_row.end, last_row.end)))
        return attend_each_row<type>(job, chunk, partials, sums);

    alignas(64) float queries[(kMaxHeadDim + 1) * R];
    alignas(64) float scores[R * kKeysPerChunk];
    // Scores of query rows with the tiles from <= tile < until: put(query, tile, sixteen scores).
    const auto score = [&](const float* rows, int from, int until, auto put) {
        gather_queries<R>(job, rows, queries);
        const auto some = [&](auto count, int t) {
            constexpr int together = decltype(count)::value;
            Floats out[R][together];
            const auto tile_at = [&](int j) { return job.cache.tile_of(s, job.slots[base + (t + j) * kTile], kv_head); };
            if constexpr (type == CacheType::i4) {
                const uint16_t* groups[together];
                for (int j = 0; j < together; ++j) groups[j] = job.cache.groups(job.cache.key_scales, s, tile_at(j));
                int4_tile_scores<R, together>(queries, keys + t, groups, d, out);
            } else {
                tile_scores<type, R, together>(queries, keys + t, d, out);
            }
            for (int j = 0; j < together; ++j) {
                const Floats scale = type == CacheType::i8 ? load(job.cache.key_scales + tile_at(j) * kTile) : all(1.0f);
                for (int r = 0; r < R; ++r) put(r, t + j, type == CacheType::i8 ? mul(out[r][j], scale) : out[r][j]);
            }
        };
        constexpr int T = R <= 4 ? 4 : 2;
        int t = from;
        for (; t + T <= until; t += T) some(std::integral_constant<int, T>(), t);
        for (; t < until; ++t) some(std::integral_constant<int, 1>(), t);
    };
    if (job.chunk == 0) {
        score(job.q, first_tile, n_tiles, [&](int r, int tile, Floats found) { store(scores + r * kKeysPerChunk + tile * kTile, found); });
    } else {
        std::fill(scores, scores + R * kKeysPerChunk, 0.0f);
        const float* const rows[] = {job.q, job.q_next, job.q_older};
        for (int which = 0; which < 3; ++which) {
            int from = kKeysPerChunk, until = 0;
            for (int row = 0; row < job.n_rows; ++row) {
                const auto [first, end] = met_with(job, row, which, base);
                if (first < end) from = first < from ? first : from, until = end > until ? end : until;
            }
            if (from >= until) continue;
            score(rows[which], from / kTile, ceil_div(until, kTile), [&](int r, int tile, Floats found) {
                const auto [first, end] = met_with(job, (r < n ? r : n - 1) / job.n_heads, which, base);
                const auto lane = [&](int key) { return key - tile * kTile < 0 ? 0 : key - tile * kTile < kTile ? key - tile * kTile : kTile; };
                float* at = scores + r * kKeysPerChunk + tile * kTile;
                if (lane(first) < lane(end)) store(at, where_lane(lane(first), lane(end), found, load(at)));
            });
        }
    }

    weigh_scores<R>(job, base, first_tile, n_tiles, scores, partials);
    weigh_by_scores<type, R>(job, job.slots + base, kv_head, values, first_key, n_keys, scores, sums);
}

template <CacheType type> void attend_typed(const AttendJob& job, int chunk, Partial* partials, float* sums) {
    const int n = job.n_rows * job.n_heads;
    if (n == 1) attend_rows<type, 1>(job, chunk, partials, sums);
    else if (n == 2) attend_rows<type, 2>(job, chunk, partials, sums);
    else if (n == 3) attend_rows<type, 3>(job, chunk, partials, sums);
    else if (n == 4) attend_rows<type, 4>(job, chunk, partials, sums);
    else if (n <= 6) attend_rows<type, 6>(job, chunk, partials, sums);
    else if (n <= 8) attend_rows<type, 8>(job, chunk, partials, sums);
    else attend_rows<type, 12>(job, chunk, partials, sums);
}

template <CacheType type> void attend_each_row(const AttendJob& job, int chunk, Partial* partials, float* sums) {
    for (int row = 0; row < job.n_rows; ++row) {
        AttendJob one = job;
        one.n_rows = 1;
        one.first_position += row;
        for (const float** q : {&one.q, &one.q_next, &one.q_older})
            if (*q) *q += static_cast<int64_t>(row) * job.shape.n_heads * job.shape.head_dim;
        const int64_t at = static_cast<int64_t>(row) * job.n_heads;
        attend_typed<type>(one, chunk, partials + at, sums + at * job.shape.padded_dim);
    }
}

/// The partial softmax of one chunk for the job's rows: partials [n_rows * n_heads], sums [same, padded_dim].
inline void attend(const AttendJob& job, int chunk, Partial* partials, float* sums) {
    switch (job.cache.type) {
        case CacheType::f32: return attend_typed<CacheType::f32>(job, chunk, partials, sums);
        case CacheType::f16: return attend_typed<CacheType::f16>(job, chunk, partials, sums);
        case CacheType::bf16: return attend_typed<CacheType::bf16>(job, chunk, partials, sums);
        case CacheType::i8: return attend_typed<CacheType::i8>(job, chunk, partials, sums);
        case CacheType::i4: return attend_typed<CacheType::i4>(job, chunk, partials, sums);
    }
}

}  // namespace LANDRACE_ISA
}  // namespace landrace
