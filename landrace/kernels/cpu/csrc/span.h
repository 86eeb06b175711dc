// A range of things that lie somewhere else, as C++20's std::span.
#pragma once

#include <cstddef>

namespace landrace {

template <class T> class Span {
public:
    constexpr Span() : first_(nullptr), size_(0) {}
    template <size_t n> constexpr Span(T (&all)[n]) : first_(all), size_(n) {}

    constexpr T* begin() const { return first_; }
    constexpr T* end() const { return first_ + size_; }
    constexpr size_t size() const { return size_; }
    constexpr T& operator[](size_t i) const { return first_[i]; }

private:
    T* first_;
    size_t size_;
};

}  // namespace landrace
