#include "memory.h"

#include <cstdlib>
#include <cstring>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace landrace {

constexpr size_t kHugePage = size_t{1} << 21;

Arena::Arena(size_t bytes) : data_(nullptr), bytes_((bytes + kHugePage) / kHugePage * kHugePage) {
    data_ = static_cast<uint8_t*>(std::aligned_alloc(kHugePage, bytes_));
    if (!data_) throw std::bad_alloc();
#if defined(__linux__)
    madvise(data_, bytes_, MADV_HUGEPAGE);  // advice: small pages work as well
#endif
    std::memset(data_, 0, bytes_);
}

Arena::~Arena() { std::free(data_); }

}  // namespace landrace
