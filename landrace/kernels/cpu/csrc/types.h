// What the kernels of every instruction set share: packed matrices, heads and the layout of a cache.
#pragma once

#include <cstddef>
#include <cstdint>

#include "span.h"

namespace landrace {

/// Outputs of a matrix that lie side by side in its packed layout, one to a vector lane.
constexpr int kTile = 16;
/// Inputs that share a scale.
constexpr int kGroup = 32;
/// Groups of a super-block (Q4_K, Q5_K, Q6_K).
constexpr int kSuper = 8;

/// How a matrix is stored. f8_f32, e5m2_f32: 8-bit floats (E4M3, E5M2) with a float32 scale for 32. nf4_f32, fp4_f32: 4-bit
/// NormalFloats and bitsandbytes' 4-bit floats with the same. i4_f16, i4_bf16, i8_f32: integers of 4 or 8 bits with a scale
/// of that type and a zero point for 32. nvfp4_f32: 4-bit floats (E2M1) with a scale (E4M3) for 16 and a float32 one for
/// all. bf12: bfloat16 in 12 bits (compact.h). The others follow ggml's block types of the same names.
enum class Kind : int {
    f32, f16, bf16, f8_f32, e5m2_f32, nf4_f32, fp4_f32,
    q4_0, q4_1, q5_0, q5_1, q8_0, q4_k, q5_k, q6_k, iq4_nl, iq4_xs, mxfp4, i4_f16, i4_bf16, i8_f32, nvfp4_f32,
    bf12
};
/// What Python calls those that files have, in order.
constexpr const char* kKinds[] = {"F32", "F16", "BF16", "F8_F32", "E5M2_F32", "NF4_F32", "FP4_F32",
                                  "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K",
                                  "IQ4_NL", "IQ4_XS", "MXFP4", "I4_F16", "I4_BF16", "I8_F32", "NVFP4_F32"};

constexpr bool is_quantised(Kind kind) { return kind >= Kind::q4_0 && kind != Kind::bf12; }
/// Floats that are codes of half a byte, by a table.
constexpr bool is_coded(Kind kind) { return kind == Kind::nf4_f32 || kind == Kind::fp4_f32; }

/// Bytes of one group of a tile, without the super-block's header; 0 for floats without groups.
constexpr int group_bytes(Kind kind) {
    switch (kind) {
        case Kind::f32:
        case Kind::f16:
        case Kind::bf16:
        case Kind::bf12: break;
        case Kind::f8_f32:
        case Kind::e5m2_f32: return 64 + 512;
        case Kind::nf4_f32:
        case Kind::fp4_f32: return 64 + 256;
        case Kind::q4_0:
        case Kind::iq4_nl:
        case Kind::mxfp4: return 32 + 256;
        case Kind::q4_1: return 64 + 256;
        case Kind::q5_0: return 32 + 256 + 64;
        case Kind::q5_1: return 64 + 256 + 64;
        case Kind::q8_0: return 32 + 512;
        case Kind::q4_k:
        case Kind::iq4_xs:
        case Kind::nvfp4_f32: return 32 + 256;
        case Kind::q5_k: return 32 + 256 + 64;
        case Kind::q6_k: return 32 + 256 + 128;
        case Kind::i4_f16:
        case Kind::i4_bf16: return 48 + 256;
        case Kind::i8_f32: return 80 + 512;
    }
    return 0;
}

/// Bytes of a super-block's header: its float16 scales (and minima), or a float32 one, one a lane.
constexpr int header_bytes(Kind kind) {
    switch (kind) {
        case Kind::q4_k:
        case Kind::q5_k:
        case Kind::nvfp4_f32: return 64;
        case Kind::q6_k:
        case Kind::iq4_xs: return 32;
        default: return 0;
    }
}

constexpr int ceil_div(int a, int b) { return (a + b - 1) / b; }

/// Inputs that one step over a tile of floats takes: two bfloat16 are multiplied at a time.
constexpr int step_inputs(Kind kind) { return kind == Kind::bf16 || kind == Kind::bf12 ? 2 : 1; }
/// Bytes of a float.
constexpr int float_bytes(Kind kind) { return kind == Kind::f32 ? 4 : kind == Kind::f8_f32 || kind == Kind::e5m2_f32 ? 1 : 2; }
/// Bytes of a tile's weights for one step. With codes of half a byte two steps share theirs.
constexpr int step_bytes(Kind kind) {
    if (is_coded(kind)) return kTile / 2;
    return kind == Kind::bf12 ? 3 * kTile : float_bytes(kind) * step_inputs(kind) * kTile;
}
/// Bytes that a tile of bf12 begins with.
constexpr int kCompactHead = 64;
/// Where in a tile of floats the weights of a step lie; in bf12, where steps go by twos, an even one.
constexpr int64_t step_offset(Kind kind, int64_t step) {
    const int64_t scales = group_bytes(kind) ? (step / kGroup + 1) * 4 * kTile : kind == Kind::bf12 ? kCompactHead : 0;
    return scales + step * step_bytes(kind);
}

/// A matrix [n_out, n_in] in tiles of 16 outputs; see packing.cpp for the layout.
struct Matrix {
    Kind kind;
    int n_out;
    int n_in;
    const uint8_t* data;

    int n_groups() const { return ceil_div(n_in, kGroup); }
    int n_tiles() const { return ceil_div(n_out, kTile); }
    size_t tile_bytes() const {
        if (kind == Kind::bf12) return static_cast<size_t>(step_offset(kind, 2 * ceil_div(n_in, 4)));
        if (!group_bytes(kind)) return static_cast<size_t>(ceil_div(n_in, step_inputs(kind))) * step_bytes(kind);
        const size_t headers = static_cast<size_t>((n_groups() + kSuper - 1) / kSuper) * header_bytes(kind);
        return static_cast<size_t>(n_groups()) * group_bytes(kind) + headers;
    }
    /// Of all tiles.
    size_t bytes() const { return tile_bytes() * static_cast<size_t>(n_tiles()); }
    const uint8_t* tile(int index) const { return data + static_cast<size_t>(index) * tile_bytes(); }
    /// Its outputs from tile `index` on.
    Matrix from_tile(int index) const { return {kind, n_out - index * kTile, n_in, tile(index)}; }
};

/// The type of a key-value cache's elements.
enum class CacheType : int { f32, f16, bf16, i8, i4 };
/// What Python calls them, in order.
constexpr const char* kCacheTypes[] = {"f32", "f16", "bf16", "i8", "i4"};

constexpr int kMaxHeadDim = 512;

/// Rotated channels beside a latent.
constexpr int kMaxRopeDim = 128;

constexpr int whole_vectors(int n) { return ceil_div(n, kTile) * kTile; }

struct HeadShape {
    int n_heads;
    int n_kv_heads;
    int head_dim;
    int padded_dim;  // head_dim rounded up to whole vectors

    bool operator==(const HeadShape& other) const {
        return n_heads == other.n_heads && n_kv_heads == other.n_kv_heads && head_dim == other.head_dim;
    }
};

/// Latent attention: all heads share one key, a latent and the rotated channels beside it, and one value, the latent.
struct LatentShape {
    int n_heads;
    int rank;
    int rope_dim;

    int key_dim() const { return rank + rope_dim; }
    /// Both parts of a key, each padded to whole vectors.
    int padded_rank() const { return whole_vectors(rank); }
    int padded_dim() const { return whole_vectors(rank) + whole_vectors(rope_dim); }
    /// The heads of the values.
    HeadShape heads() const { return {n_heads, 1, rank, padded_rank()}; }
    bool operator==(const LatentShape& other) const { return n_heads == other.n_heads && rank == other.rank && rope_dim == other.rope_dim; }
};

/// An indexer's keys: one head's, which has no values, but may have gates that weigh it among neighbours.
struct IndexShape {
    int head_dim;
    int n_gates;

    int width() const { return head_dim + n_gates; }
    bool operator==(const IndexShape& other) const { return head_dim == other.head_dim && n_gates == other.n_gates; }
};

/// What rows are compressed from: so many float32 values of each position.
struct InputShape {
    int width;

    bool operator==(const InputShape& other) const { return width == other.width; }
};

/// Bytes of one element of a cache; i4 has two in a byte.
constexpr int64_t element_bytes(CacheType type) { return type == CacheType::f32 ? 4 : type >= CacheType::i8 ? 1 : 2; }

/// One layer's keys and values.
///
/// Slot s lies in lane s % 16 of tile s / 16. A tile of a key-value head holds its keys [head_dim, 16], so that one vector
/// has a channel of sixteen keys, and right after them its values [16, padded head_dim], channels padded to whole vectors:
/// attention reads whole tiles, in order. Int8 elements are multiplied by a scale a slot and head.
///
/// Int4 elements are scale * code + minimum, with a scale and a minimum for every 32 channels of a slot and head. A byte has
/// two channels of one slot, so that rows can be written side by side: of keys [ceil(head_dim / 2), 16] the channels 2p and
/// 2p + 1, of values [16, 16 * n_groups] the channels c and c + 16 of a group, the first in the low half.
///
/// Latents are stored once, since the key holds the value: slot s has its padded_dim channels at `tiles`, behind those of
/// slot s - 1. Int8 latents are multiplied by the slot's `value_scales`, the rotated channels by its `key_scales`.
///
/// An indexer's keys lie as those of one key-value head, a tile's right behind the last one's; with gates, channels [width, 16],
/// and int8 gates are multiplied by `value_scales`.
///
/// What rows are compressed from lies slot by slot, always in float32.
struct LayerCache {
    CacheType type;
    uint8_t* tiles;       // [n_slots / 16, n_kv_heads, tile_bytes]
    float* key_scales;    // int8: [n_slots / 16, n_kv_heads, 16]; int4: see `groups`
    float* value_scales;  // likewise

    int64_t key_bytes(const HeadShape& shape) const {
        return element_bytes(type) * kTile * (type == CacheType::i4 ? ceil_div(shape.head_dim, 2) : shape.head_dim);
    }
    /// Of one slot's value in a tile.
    int64_t value_bytes(const HeadShape& shape) const {
        return element_bytes(type) * (type == CacheType::i4 ? kTile * n_groups(shape) : shape.padded_dim);
    }
    int64_t tile_bytes(const HeadShape& shape) const { return key_bytes(shape) + kTile * value_bytes(shape); }
    static int n_groups(const HeadShape& shape) { return ceil_div(shape.head_dim, kGroup); }
    /// Int4: float16 [n_groups, 2, 16] of a tile, by group its slots' scales and their minima.
    uint16_t* groups(float* scales, const HeadShape& shape, int64_t tile) const {
        return reinterpret_cast<uint16_t*>(scales) + tile * n_groups(shape) * 2 * kTile;
    }
    /// Index of a slot's tile among those of all heads.
    int64_t tile_of(const HeadShape& shape, int64_t slot, int kv_head) const { return slot / kTile * shape.n_kv_heads + kv_head; }
    uint8_t* latent(const LatentShape& shape, int64_t slot) const { return tiles + slot * shape.padded_dim() * element_bytes(type); }
    float* inputs(const InputShape& shape, int64_t slot) const { return reinterpret_cast<float*>(tiles) + slot * shape.width; }
    uint8_t* index_tile(const IndexShape& shape, int64_t tile) const { return tiles + tile * element_bytes(type) * kTile * shape.width(); }
};

}  // namespace landrace
