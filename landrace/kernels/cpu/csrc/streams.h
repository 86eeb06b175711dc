// Residual streams: several rows of a model's width side by side.
#pragma once

#include <stdexcept>

#include "fields.h"
#include "workspace.h"

namespace landrace {

constexpr int kMostStreams = 8;

/// The field count. Throws std::invalid_argument unless the rows of `buffer` are so many streams.
inline int stream_count(const Fields& fields, const Workspace& workspace, int buffer) {
    const int64_t count = fields.integer("count");
    if (count < 1 || count > kMostStreams) throw std::invalid_argument("there are 1 to " + std::to_string(kMostStreams) + " streams, not " + std::to_string(count));
    if (workspace.checked_width(buffer) % count) throw std::invalid_argument("rows are not whole streams");
    return static_cast<int>(count);
}

}  // namespace landrace
