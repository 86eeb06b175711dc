// Memory for weights: one large piece, in huge pages where the system gives them, so that reading it all for every
// token does not stumble over page tables.
#pragma once

#include <cstddef>
#include <cstdint>

namespace landrace {

class Arena {
public:
    /// `bytes` zeroed bytes at a multiple of 2 MiB. Throws std::bad_alloc.
    explicit Arena(size_t bytes);
    ~Arena();
    Arena(const Arena&) = delete;
    Arena& operator=(const Arena&) = delete;

    uint8_t* data() const { return data_; }
    size_t bytes() const { return bytes_; }

private:
    uint8_t* data_;
    size_t bytes_;
    void* mapped_;  // what the system gave, which `data_` lies in
    size_t mapped_bytes_;
};

}  // namespace landrace
