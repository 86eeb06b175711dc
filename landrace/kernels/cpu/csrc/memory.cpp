#include "memory.h"

#include <cstdlib>
#include <cstring>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace landrace {

constexpr size_t kHugePage = size_t{1} << 21;

#if defined(__linux__)

// Fresh pages are zero without being touched, so that the threads which fill them share the work of getting them.
Arena::Arena(size_t bytes) : bytes_((bytes + kHugePage) / kHugePage * kHugePage), mapped_bytes_(bytes_ + kHugePage) {
    mapped_ = mmap(nullptr, mapped_bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped_ == MAP_FAILED) throw std::bad_alloc();
    const auto address = reinterpret_cast<uintptr_t>(mapped_);
    data_ = static_cast<uint8_t*>(mapped_) + (kHugePage - address % kHugePage) % kHugePage;
    madvise(data_, bytes_, MADV_HUGEPAGE);  // advice: small pages work as well
}

Arena::~Arena() { munmap(mapped_, mapped_bytes_); }

#else

Arena::Arena(size_t bytes) : bytes_((bytes + kHugePage) / kHugePage * kHugePage), mapped_bytes_(bytes_) {
    mapped_ = std::aligned_alloc(kHugePage, bytes_);
    if (!mapped_) throw std::bad_alloc();
    data_ = static_cast<uint8_t*>(mapped_);
    std::memset(data_, 0, bytes_);
}

Arena::~Arena() { std::free(mapped_); }

#endif

}  // namespace landrace
