// What attends together, and which keys it sees.
#pragma once

#include "cached_elements.inl"

namespace landrace {
namespace LANDRACE_ISA {

/// Query rows times heads that one pass over the keys serves.
constexpr int kRowsAttending = 12;

/// Which positions a position sees: see landrace/kernels/mask.py.
struct Mask {
    enum class Kind : int { full, sliding, chunked, whole };
    Kind kind;
    int extent;  // of the window or the chunk

    bool operator==(const Mask& other) const { return kind == other.kind && extent == other.extent; }
    bool has_extent() const { return kind == Kind::sliding || kind == Kind::chunked; }
    /// Of a sequence that has positions up to `last`.
    int64_t last_seen(int64_t position, int64_t last) const { return kind == Kind::whole ? last : position; }
    int64_t first_seen(int64_t position) const {
        if (kind == Kind::sliding) return position < extent ? 0 : position + 1 - extent;
        return kind == Kind::chunked ? position / extent * extent : 0;
    }
};
/// What Python calls the kinds, in order.
constexpr const char* kMasks[] = {"full", "sliding", "chunked", "whole"};

/// Query rows of one sequence and heads of one key-value head that attend together.
struct AttendJob {
    HeadShape shape;
    LayerCache cache;
    const int64_t* slots;  // of the sequence's positions; every aligned sixteen positions are sixteen aligned slots
    const int32_t* chosen; // first_position + 1 positions, which are what the one row sees; null: all that the mask shows
    Mask mask;
    const float* sinks;    // [shape.n_heads] scores that take part in the softmax and have no value, or null
    const float* slopes;   // [shape.n_heads], times (position of the key - position of the row) added to its scores, or null
    int first_head;
    int n_heads;           // n_rows * n_heads <= kRowsAttending
    int n_rows;
    int64_t first_position;  // of the first query row; the next ones follow
    int64_t last_position;   // of the sequence
    const float* q;          // the first row, [rows, shape.n_heads * head_dim]
    float* out;              // likewise
    int chunk;               // dual chunks: positions are counted anew after so many, and q meets the keys of its own chunk; or 0
    const float* q_next;     // q as it meets the keys of the chunk before its own
    const float* q_older;    // q as it meets all earlier ones
};

/// Keys first <= key < end, counted in a chunk.
struct KeyRange {
    int first, end;
};

/// What a row of the job sees of the chunk of keys that starts at `base`; nothing: first == end.
inline KeyRange seen_by(const AttendJob& job, int row, int64_t base) {
    const int64_t position = job.first_position + row;
    const int64_t oldest = job.mask.first_seen(position);
    const auto within = [&](int64_t key) { return static_cast<int>(key < base ? 0 : key - base < kKeysPerChunk ? key - base : kKeysPerChunk); };
    return {within(oldest), within(job.mask.last_seen(position, job.last_position) + 1)};
}

/// What a row meets of that chunk of keys with its query number `which`: 0 of its own dual chunk, 1 of the one before, 2 of
/// all earlier ones.
inline KeyRange met_with(const AttendJob& job, int row, int which, int64_t base) {
    const int64_t position = job.first_position + row, own = position / job.chunk * job.chunk;
    const auto within = [&](int64_t key) { return static_cast<int>(key < base ? 0 : key - base < kKeysPerChunk ? key - base : kKeysPerChunk); };
    if (which == 0) return {within(own), within(position + 1)};
    return which == 1 ? KeyRange{within(own - job.chunk), within(own)} : KeyRange{within(0), within(own - job.chunk)};
}

}  // namespace LANDRACE_ISA
}  // namespace landrace
