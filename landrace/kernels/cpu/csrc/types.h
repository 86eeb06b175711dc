// What the kernels of every instruction set share: packed matrices, quantised rows, and the table of kernels.
#pragma once

#include <cstddef>
#include <cstdint>

namespace landrace {

/// Outputs of a matrix that lie side by side in its packed layout, one to a vector lane.
constexpr int kTile = 16;
/// Inputs that share a scale.
constexpr int kGroup = 32;
/// Groups of a super-block (Q4_K, Q5_K, Q6_K).
constexpr int kSuper = 8;
/// Rows of one task of a product.
constexpr int kRowsPerTask = 48;
/// How far ahead of its use a weight is asked for. With several rows the processor is too busy to look far ahead by itself.
constexpr int kPrefetchBytes = 4096;
/// Keys attended to at a time; partial results are merged in this rhythm wherever a sequence is cut.
constexpr int kKeysPerChunk = 256;

/// How a matrix is stored. The quantised kinds follow ggml's block types of the same names.
enum class Kind : int { f32, f16, bf16, q4_0, q4_1, q5_0, q5_1, q8_0, q4_k, q5_k, q6_k };

constexpr bool is_quantised(Kind kind) { return kind >= Kind::q4_0; }

/// Bytes of one group of a tile, without the super-block's header.
constexpr int group_bytes(Kind kind) {
    switch (kind) {
        case Kind::f32:
        case Kind::f16:
        case Kind::bf16: break;
        case Kind::q4_0: return 32 + 256;
        case Kind::q4_1: return 64 + 256;
        case Kind::q5_0: return 32 + 256 + 64;
        case Kind::q5_1: return 64 + 256 + 64;
        case Kind::q8_0: return 32 + 512;
        case Kind::q4_k: return 32 + 256;
        case Kind::q5_k: return 32 + 256 + 64;
        case Kind::q6_k: return 32 + 256 + 128;
    }
    return 0;
}

/// Bytes of a super-block's header: its float16 scales (and minima), one a lane.
constexpr int header_bytes(Kind kind) {
    switch (kind) {
        case Kind::q4_k:
        case Kind::q5_k: return 64;
        case Kind::q6_k: return 32;
        default: return 0;
    }
}

constexpr int ceil_div(int a, int b) { return (a + b - 1) / b; }

/// Inputs that one step over a tile of floats takes: two bfloat16 are multiplied at a time.
constexpr int step_inputs(Kind kind) { return kind == Kind::bf16 ? 2 : 1; }
/// Bytes of a tile's weights for one step.
constexpr int step_bytes(Kind kind) { return (kind == Kind::f32 ? 4 : 2) * step_inputs(kind) * kTile; }

/// A matrix [n_out, n_in] in tiles of 16 outputs; see packing.cpp for the layout.
struct Matrix {
    Kind kind;
    int n_out;
    int n_in;
    const uint8_t* data;

    int n_groups() const { return ceil_div(n_in, kGroup); }
    int n_tiles() const { return ceil_div(n_out, kTile); }
    size_t tile_bytes() const {
        if (!is_quantised(kind)) return static_cast<size_t>(ceil_div(n_in, step_inputs(kind))) * step_bytes(kind);
        const size_t headers = static_cast<size_t>((n_groups() + kSuper - 1) / kSuper) * header_bytes(kind);
        return static_cast<size_t>(n_groups()) * group_bytes(kind) + headers;
    }
    size_t bytes() const { return tile_bytes() * static_cast<size_t>(n_tiles()); }
    const uint8_t* tile(int index) const { return data + static_cast<size_t>(index) * tile_bytes(); }
};

/// Rows that lie together in memory, so that a product finds a group of several rows behind one address.
constexpr int kPanel = 4;

/// One group of a quantised row: a value is byte * scale.
struct QuantisedGroup {
    int8_t bytes[kGroup];
    float scale;
    float scaled_sum;     // scale * (sum of the bytes)
    int32_t minus_sum;    // -(sum of the bytes)
    int32_t minus_first;  // -(sum of the first half's bytes)
};

/// What quantising a group to bytes left over, in 254ths of its scale; only where the group has outliers.
struct Remainder {
    int8_t bytes[kGroup];
    float scale;
    int32_t minus_sum;
    int32_t minus_first;
};

/// A group keeps its remainder when its greatest magnitude exceeds this many times the row's root mean square. A few
/// groups hold the outliers and, with them, most of the error of 8 bits.
constexpr float kOutlier = 6.5f;

/// Rows of a product's input in panels of four: as floats [rows / 4, n_in, 4], as pairs of bfloat16 [rows / 4, n_in / 2
/// rounded up, 4], as groups [rows / 4, n_groups, 4] and
/// their remainders, and a bit for each row of a panel that has one [rows / 4, n_groups]. Null pointers where no matrix of the
/// product needs the form.
struct Rows {
    const float* floats;
    const uint32_t* pairs;
    const QuantisedGroup* groups;
    const Remainder* remainders;
    const uint8_t* with_remainder;
    int n_in;

    int n_groups() const { return ceil_div(n_in, kGroup); }
};

/// What becomes of a product's rows.
enum class Epilogue : int {
    store,   // out = factor * y
    add,     // out += factor * y
    swiglu,  // out = silu(y of the first matrix) * (y of the second)
};

struct Product {
    const Matrix* matrix;
    const Matrix* gated;        // swiglu: the second matrix
    const float* bias;          // [n_out] or null
    const float* gated_bias;
    Epilogue epilogue;
    float factor;
    float* out;                 // [rows, out_stride]
    int64_t out_stride;
    const int32_t* out_rows;    // row of `out` for each input row; null: the same
};

/// The type of a key-value cache's elements.
enum class CacheType : int { f32, f16, bf16, i8 };

struct HeadShape {
    int n_heads;
    int n_kv_heads;
    int head_dim;
    int padded_dim;  // head_dim rounded up to whole vectors
};

/// Bytes of one element of a cache.
constexpr int64_t element_bytes(CacheType type) { return type == CacheType::f32 ? 4 : type == CacheType::i8 ? 1 : 2; }

/// One layer's keys and values.
///
/// Slot s lies in lane s % 16 of tile s / 16. A tile of a key-value head holds its keys [head_dim, 16], so that one vector
/// has a channel of sixteen keys, and right after them its values [16, padded head_dim], channels padded to whole vectors:
/// attention reads whole tiles, in order. Int8 elements are multiplied by a scale a slot and head.
struct LayerCache {
    CacheType type;
    uint8_t* tiles;       // [n_slots / 16, n_kv_heads, tile_bytes]
    float* key_scales;    // [n_slots / 16, n_kv_heads, 16], int8 only
    float* value_scales;  // likewise

    int64_t key_bytes(const HeadShape& shape) const { return element_bytes(type) * kTile * shape.head_dim; }
    int64_t tile_bytes(const HeadShape& shape) const { return element_bytes(type) * kTile * (shape.head_dim + shape.padded_dim); }
    /// Index of a slot's tile among those of all heads.
    int64_t tile_of(const HeadShape& shape, int64_t slot, int kv_head) const { return slot / kTile * shape.n_kv_heads + kv_head; }
};

enum class HeadNorm : int { none, before_rope, after_rope };

/// Rotation, head norms, and the way into the cache, for rows of one layer.
struct RopeJob {
    HeadShape shape;
    HeadNorm norm;
    const float* q_norm;  // [head_dim]
    const float* k_norm;
    float eps;
    int rotary_half;              // channels i and i + rotary_half turn together; 0: no rotation
    const float* cos;             // [table rows, rotary_half]
    const float* sin;
    const int64_t* table_rows;    // [rows]
    float* q;                     // [rows, n_heads * head_dim], rotated in place and multiplied by `scale`
    const float* k;               // [rows, n_kv_heads * head_dim]
    const float* v;
    float scale;
    const int64_t* write_slots;   // [rows]
    LayerCache cache;
};

/// Query rows times heads that one pass over the keys serves.
constexpr int kRowsAttending = 12;
constexpr int kMaxHeadDim = 512;

/// Query rows of one sequence and heads of one key-value head that attend together.
struct AttendJob {
    HeadShape shape;
    LayerCache cache;
    const int64_t* slots;  // of the sequence's positions; every aligned sixteen positions are sixteen aligned slots
    int window;            // 0: all of the past
    int first_head;
    int n_heads;           // n_rows * n_heads <= kRowsAttending
    int n_rows;
    int64_t first_position;  // of the first query row; the next ones follow
    const float* q;          // the first row, [rows, shape.n_heads * head_dim]
    float* out;              // likewise
};

/// Running softmax of one query row and head: its greatest score and the sum of its weights. Nothing seen yet: -inf, 0.
struct Partial {
    float greatest;
    float total;
};

struct Kernels {
    const char* name;
    void (*rms_norm)(const float* x, const float* weight, float eps, int n, float* out);
    void (*quantise)(const float* x, int n, int panel_row, QuantisedGroup* groups, Remainder* remainders, uint8_t* with_remainder);
    void (*pair_up)(const float* x, int n, uint32_t* pairs);
    void (*product)(const Product&, const Rows&, int first_row, int n_rows, int first_tile, int end_tile);
    void (*unpack_row)(const Matrix&, int row, float factor, float* out);
    void (*swiglu)(const float* gate, const float* up, int64_t n, float* out);
    void (*axpy)(const float* x, float factor, int n, float* out);
    void (*rope)(const RopeJob&, int first_row, int end_row);
    void (*attend)(const AttendJob&, int chunk, Partial* partials, float* sums);
    void (*merge)(Partial* into, float* into_sums, const Partial* part, const float* part_sums, int n, int padded_dim);
    void (*finish)(const AttendJob&, const Partial* partials, const float* sums);
};

}  // namespace landrace
