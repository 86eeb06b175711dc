// The layout of a packed matrix:
//
// - Sixteen outputs make a tile, and tiles follow one another. A lane is an output.
// - Floats: for each input, sixteen values; bfloat16: for every two inputs, sixteen pairs, or fewer bytes (compact.h).
// - Quantised: for each group of 32 inputs, the scales of the sixteen lanes, then the values. Four inputs of a lane make a
//   quad of bytes; a vector holds one quad of every lane. Four-bit values: vector i of four holds quad i in the low and
//   quad i + 4 in the high nibbles. A fifth bit: one plane, bit q of a byte belongs to quad q. Two further bits: two
//   planes of four quads. Eight-bit values are stored with 128 added.
// - Super-blocks (Q4_K, Q5_K, Q6_K, IQ4_XS): before every eighth group, the float16 scales (and minima) of the sixteen lanes;
//   NVFP4_F32: their float32 scales, times 128.
// - Scales that are powers of two (MXFP4) become bfloat16. F8_F32 (times 256), E5M2_F32, NF4_F32, FP4_F32: the float32 scales,
//   then sixteen values for each input of the group, or sixteen bytes for two, the first in the low nibbles.
#include "packing.h"

#include <cstring>

namespace landrace {
namespace {

struct Block {
    int elements;
    int bytes;
};

Block block_of(Kind kind) {
    switch (kind) {
        case Kind::f32: return {1, 4};
        case Kind::f16:
        case Kind::bf16: return {1, 2};
        case Kind::q4_0: return {32, 18};
        case Kind::q4_1: return {32, 20};
        case Kind::q5_0: return {32, 22};
        case Kind::q5_1: return {32, 24};
        case Kind::q8_0: return {32, 34};
        case Kind::q4_k: return {256, 144};
        case Kind::q5_k: return {256, 176};
        case Kind::q6_k: return {256, 210};
        case Kind::f8_f32:
        case Kind::e5m2_f32: return {32, 36};
        case Kind::nf4_f32:
        case Kind::fp4_f32: return {32, 20};
        case Kind::iq4_nl: return {32, 18};
        case Kind::iq4_xs: return {256, 136};
        case Kind::mxfp4: return {32, 17};
        case Kind::i4_f16:
        case Kind::i4_bf16: return {32, 19};
        case Kind::i8_f32: return {32, 37};
        case Kind::nvfp4_f32: return {32, 22};
        case Kind::bf12: break;
    }
    return {1, 1};
}

/// The 32 values of a group, by lane, and its scales: what every quantised kind comes down to.
struct Group {
    uint8_t values[kGroup];
    uint8_t scale[4];    // a float of 16 or 32 bits, or one byte for super-blocks
    uint8_t minimum[2];  // likewise, or one byte for a zero point
};

/// A float32 scale, times a power of two.
void write_scale(const uint8_t* stored, float factor, uint8_t* to) {
    float scale;
    std::memcpy(&scale, stored, 4);
    scale *= factor;
    std::memcpy(to, &scale, 4);
}

void low_and_high(const uint8_t* bytes, uint8_t* values) {
    for (int i = 0; i < 16; ++i) {
        values[i] = bytes[i] & 15;
        values[16 + i] = bytes[i] >> 4;
    }
}

void add_fifth_bits(const uint8_t* bytes, uint8_t* values) {
    for (int i = 0; i < 32; ++i) values[i] |= static_cast<uint8_t>((bytes[i / 8] >> (i % 8) & 1) << 4);
}

/// Twelve bytes hold eight 6-bit scales and minima: see ggml's Q4_K.
void super_scales(const uint8_t* packed, int group, Group& out) {
    if (group < 4) {
        out.scale[0] = packed[group] & 63;
        out.minimum[0] = packed[group + 4] & 63;
    } else {
        out.scale[0] = static_cast<uint8_t>((packed[group + 4] & 15) | (packed[group - 4] >> 6) << 4);
        out.minimum[0] = static_cast<uint8_t>((packed[group + 4] >> 4) | (packed[group] >> 6) << 4);
    }
}

Group read_group(Kind kind, const uint8_t* row, int group) {
    Group out{};
    const Block block = block_of(kind);
    const int per_block = block.elements / kGroup;
    const uint8_t* at = row + static_cast<size_t>(group / per_block) * block.bytes;
    const int inner = group % per_block;
    switch (kind) {
        case Kind::q4_0:
            std::memcpy(out.scale, at, 2);
            low_and_high(at + 2, out.values);
            break;
        case Kind::q4_1:
            std::memcpy(out.scale, at, 2);
            std::memcpy(out.minimum, at + 2, 2);
            low_and_high(at + 4, out.values);
            break;
        case Kind::q5_0:
            std::memcpy(out.scale, at, 2);
            low_and_high(at + 6, out.values);
            add_fifth_bits(at + 2, out.values);
            break;
        case Kind::q5_1:
            std::memcpy(out.scale, at, 2);
            std::memcpy(out.minimum, at + 2, 2);
            low_and_high(at + 8, out.values);
            add_fifth_bits(at + 4, out.values);
            break;
        case Kind::q8_0:
            std::memcpy(out.scale, at, 2);
            for (int i = 0; i < kGroup; ++i) out.values[i] = at[2 + i] ^ 0x80;
            break;
        case Kind::q4_k:
        case Kind::q5_k: {
            super_scales(at + 4, inner, out);
            const uint8_t* low = at + (kind == Kind::q4_k ? 16 : 48) + 32 * (inner / 2);
            for (int i = 0; i < kGroup; ++i) {
                out.values[i] = low[i] >> 4 * (inner % 2) & 15;
                if (kind == Kind::q5_k) out.values[i] |= static_cast<uint8_t>((at[16 + i] >> inner & 1) << 4);
            }
            break;
        }
        case Kind::q6_k: {
            const int half = inner / 4, quarter = inner % 4;
            const uint8_t* low = at + 64 * half + 32 * (quarter % 2);
            const uint8_t* high = at + 128 + 32 * half;
            for (int i = 0; i < kGroup; ++i) {
                const int nibble = quarter > 1 ? low[i] >> 4 : low[i] & 15;
                out.values[i] = static_cast<uint8_t>(nibble | (high[i] >> 2 * quarter & 3) << 4);
            }
            out.scale[0] = at[192 + 2 * inner];
            out.minimum[0] = at[192 + 2 * inner + 1];
            break;
        }
        case Kind::iq4_nl:
            std::memcpy(out.scale, at, 2);
            low_and_high(at + 2, out.values);
            break;
        case Kind::iq4_xs: {
            const int high = (at[2] | at[3] << 8) >> 2 * inner & 3, low = at[4 + inner / 2] >> 4 * (inner % 2) & 15;
            out.scale[0] = static_cast<uint8_t>((low | high << 4) - 32);
            low_and_high(at + 8 + 16 * inner, out.values);
            break;
        }
        case Kind::mxfp4: {
            // 2^(e - 128), which goes with twice the values; subnormal for the two smallest.
            const int bits = at[0] < 2 ? 0x20 << at[0] : (at[0] - 1) << 7;
            out.scale[0] = static_cast<uint8_t>(bits & 255);
            out.scale[1] = static_cast<uint8_t>(bits >> 8);
            low_and_high(at + 1, out.values);
            break;
        }
        case Kind::i4_f16:
        case Kind::i4_bf16:
            std::memcpy(out.scale, at, 2);
            out.minimum[0] = at[2];
            low_and_high(at + 3, out.values);
            break;
        case Kind::i8_f32:
            std::memcpy(out.scale, at, 4);
            out.minimum[0] = at[4];
            std::memcpy(out.values, at + 5, kGroup);
            break;
        case Kind::nvfp4_f32:
            out.scale[0] = at[4];
            out.minimum[0] = at[5];
            low_and_high(at + 6, out.values);
            break;
        default: break;
    }
    return out;
}

/// Copies a super-block's scale (and minimum) to its lane of the header.
void write_header(Kind kind, const uint8_t* row, int group, int lane, uint8_t* header) {
    const Block block = block_of(kind);
    const uint8_t* at = row + static_cast<size_t>(group * kGroup / block.elements) * block.bytes;
    if (kind == Kind::nvfp4_f32) {
        write_scale(at, 128.0f, header + 4 * lane);  // reading its group's scale divides by 256, its values are doubled
        return;
    }
    std::memcpy(header + 2 * lane, at + (kind == Kind::q6_k ? 208 : 0), 2);
    if (header_bytes(kind) == 64) std::memcpy(header + 32 + 2 * lane, at + 2, 2);
}

/// A row of scaled floats into its lane of a tile.
void write_float_groups(Kind kind, const uint8_t* row, int n_groups, int lane, uint8_t* tile) {
    for (int group = 0; group < n_groups; ++group) {
        const uint8_t* block = row + static_cast<size_t>(group) * static_cast<size_t>(block_of(kind).bytes);
        uint8_t* at = tile + static_cast<size_t>(group) * static_cast<size_t>(group_bytes(kind));
        write_scale(block, kind == Kind::f8_f32 ? 256.0f : 1.0f, at + 4 * lane);  // reading E4M3 as float16 divides by that
        uint8_t* values = at + 4 * kTile + lane;
        if (is_coded(kind)) {
            uint8_t codes[kGroup];
            low_and_high(block + 4, codes);
            for (int i = 0; i < kGroup; i += 2) values[kTile * (i / 2)] = static_cast<uint8_t>(codes[i] | codes[i + 1] << 4);
        } else {
            for (int i = 0; i < kGroup; ++i) values[kTile * i] = block[4 + i];
        }
    }
}

void write_group(Kind kind, const Group& group, int lane, uint8_t* at) {
    const bool super = header_bytes(kind) > 0, minimum = kind == Kind::q4_1 || kind == Kind::q5_1;
    const bool zero_point = kind == Kind::i4_f16 || kind == Kind::i4_bf16;
    if (kind == Kind::i8_f32) {
        std::memcpy(at + 4 * lane, group.scale, 4);
        at[64 + lane] = group.minimum[0];
    } else if (super) {
        at[lane] = group.scale[0];
        at[16 + lane] = group.minimum[0];
    } else {
        std::memcpy(at + 2 * lane, group.scale, 2);
        if (minimum) std::memcpy(at + 32 + 2 * lane, group.minimum, 2);
        if (zero_point) at[32 + lane] = group.minimum[0];
    }
    uint8_t* values = at + (kind == Kind::i8_f32 ? 80 : minimum ? 64 : zero_point ? 48 : 32);
    if (kind == Kind::q8_0 || kind == Kind::i8_f32) {
        for (int i = 0; i < kGroup; ++i) values[64 * (i / 4) + 4 * lane + i % 4] = group.values[i];
        return;
    }
    for (int i = 0; i < 16; ++i)
        values[64 * (i / 4) + 4 * lane + i % 4] = static_cast<uint8_t>((group.values[i] & 15) | group.values[16 + i] << 4);
    uint8_t* planes = values + 256;
    if (kind == Kind::q5_0 || kind == Kind::q5_1 || kind == Kind::q5_k)
        for (int i = 0; i < kGroup; ++i)
            planes[4 * lane + i % 4] |= static_cast<uint8_t>((group.values[i] >> 4 & 1) << i / 4);
    if (kind == Kind::q6_k)
        for (int i = 0; i < kGroup; ++i)
            planes[64 * (i / 16) + 4 * lane + i % 4] |= static_cast<uint8_t>((group.values[i] >> 4 & 3) << 2 * (i % 16 / 4));
}

}  // namespace

size_t stored_row_bytes(Kind kind, int n_in) {
    const Block block = block_of(kind);
    return static_cast<size_t>(n_in / block.elements) * static_cast<size_t>(block.bytes);
}

void pack(const Matrix& matrix, const uint8_t* stored, uint8_t* to, int first_tile, int end_tile) {
    const size_t row_bytes = stored_row_bytes(matrix.kind, matrix.n_in);
    for (int tile = first_tile; tile < end_tile; ++tile) {
        uint8_t* start = to + static_cast<size_t>(tile) * matrix.tile_bytes();
        std::memset(start, 0, matrix.tile_bytes());
        for (int lane = 0; lane < kTile && tile * kTile + lane < matrix.n_out; ++lane) {
            const uint8_t* row = stored + static_cast<size_t>(tile * kTile + lane) * row_bytes;
            if (!is_quantised(matrix.kind) && group_bytes(matrix.kind)) {
                write_float_groups(matrix.kind, row, matrix.n_groups(), lane, start);
                continue;
            }
            if (!is_quantised(matrix.kind)) {
                const size_t size = static_cast<size_t>(float_bytes(matrix.kind));
                const auto inputs = static_cast<size_t>(step_inputs(matrix.kind)), bytes = static_cast<size_t>(step_bytes(matrix.kind));
                for (size_t k = 0; k < static_cast<size_t>(matrix.n_in); ++k)
                    std::memcpy(start + k / inputs * bytes + (static_cast<size_t>(lane) * inputs + k % inputs) * size, row + k * size, size);
                continue;
            }
            uint8_t* at = start;
            for (int group = 0; group < matrix.n_groups(); ++group) {
                if (header_bytes(matrix.kind) && group % kSuper == 0) {
                    write_header(matrix.kind, row, group, lane, at);
                    at += header_bytes(matrix.kind);
                }
                write_group(matrix.kind, read_group(matrix.kind, row, group), lane, at);
                at += group_bytes(matrix.kind);
            }
        }
    }
}

}  // namespace landrace
