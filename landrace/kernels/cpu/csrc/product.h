// What a matrix product works on: rows in the forms that matrices of different kinds are multiplied with, and where the
// results go.
#pragma once

#include "activation.h"
#include "types.h"

namespace landrace {

/// Rows of one task of a product.
constexpr int kRowsPerTask = 48;
/// How far ahead of its use a weight is asked for. With several rows the processor is too busy to look far ahead by itself.
constexpr int kPrefetchBytes = 4096;

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
/// rounded up, 4], as groups [rows / 4, n_groups, 4] and their remainders, and a bit for each row of a panel that has one
/// [rows / 4, n_groups]. What no matrix of the product needs is not filled in.
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
    store,  // out = factor * y
    add,    // out += factor * y
    gate,   // out = activation(y of the first matrix, y of the second)
};
/// What Python calls them, in order.
constexpr const char* kEpilogues[] = {"store", "add", "gate"};

struct Product {
    const Matrix* matrix;
    const Matrix* gated;        // gate: the second matrix
    const float* bias;          // [n_out] or null
    const float* gated_bias;
    Epilogue epilogue;
    Activation activation;
    float factor;
    const float* row_factors;   // store, add: another factor for each input row; null: none
    const float* input_factors; // for each input row, which is as good as multiplied by it; null: none
    float* out;                 // [rows, out_stride]
    int64_t out_stride;
    const int32_t* out_rows;    // row of `out` for each input row, -1: none; null: the same
};

}  // namespace landrace
