// The loops of machine.h, for a file that says what one step is in its own instruction set.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "machine.h"

namespace landrace {
namespace {

// The compiler has to take `value` for changed, and so to repeat what depends on it. No instruction comes of it.
// The constraint names a vector register of the file's own instruction set.
#if defined(__AVX512F__)
#define LANDRACE_OPAQUE(value) __asm__ volatile("" : "+v"(value))
#elif defined(__x86_64__)
#define LANDRACE_OPAQUE(value) __asm__ volatile("" : "+x"(value))
#elif defined(__aarch64__)
#define LANDRACE_OPAQUE(value) __asm__ volatile("" : "+w"(value))
#else
#define LANDRACE_OPAQUE(value) __asm__ volatile("" : "+m"(value))
#endif

// What to read ahead of its use, in bytes: measured, a tenth faster than what the processor reads ahead by itself.
constexpr size_t kAhead = 4096;

// The sum of the lanes of a vector.
template <class Total, class Lane, class Vector>
Total total_of(const Vector& vector) {
    Lane lanes[sizeof(Vector) / sizeof(Lane)];
    std::memcpy(lanes, &vector, sizeof lanes);
    Total total = 0;
    for (Lane lane : lanes) total += lane;
    return total;
}

// Step::kCount sums, independent of one another: enough of them hide the latency of the instruction. A chain of members,
// since compilers keep those in registers, and an array in memory.
//
// Step: Sum and Factor (vectors), kCount, kProducts (multiply-adds of one step), zero(), one() (ones),
// multiply_add(Sum&, Factor, Factor) and total(Sum), the sum of the lanes.
template <class Step, int count>
struct Sums {
    typename Step::Sum first = Step::zero();
    Sums<Step, count - 1> others;

    void multiply_add(typename Step::Factor a, typename Step::Factor b) {
        LANDRACE_OPAQUE(a);  // so that no two sums share a product
        Step::multiply_add(first, a, b);
        others.multiply_add(a, b);
    }
    double total() const { return Step::total(first) + others.total(); }
};

template <class Step>
struct Sums<Step, 0> {
    void multiply_add(typename Step::Factor, typename Step::Factor) {}
    double total() const { return 0; }
};

template <class Step>
double run_peak(uint64_t rounds) {
    Sums<Step, Step::kCount> sums;
    typename Step::Factor a = Step::one();
    const typename Step::Factor b = Step::one();
    for (uint64_t round = 0; round < rounds; ++round) {
        LANDRACE_OPAQUE(a);
        sums.multiply_add(a, b);
    }
    return sums.total();
}

template <class Step>
constexpr PeakLoop peak(const char* instruction) {
    return {instruction, 2.0 * Step::kProducts * Step::kCount, &run_peak<Step>};
}

}  // namespace
}  // namespace landrace
