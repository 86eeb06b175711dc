// How fast this machine reads memory and computes: the limits that a kernel's speed is held against.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace landrace {

// Multiply-adds on registers only. Both factors are 1, so that the sum of all accumulators counts the multiply-adds,
// as long as each accumulator holds it exactly.
struct PeakLoop {
    const char* instruction;    // what does the products
    double operations;          // in one round; a multiply-add is two
    double (*run)(uint64_t rounds);  // the sum of all accumulators
};

// The loops of one instruction set.
struct MachineLoops {
    uint64_t (*read_sum)(const uint64_t* words, size_t count);  // modulo 2^64
    PeakLoop int8;  // unsigned by signed bytes into int32
    PeakLoop bf16;  // into float32; by float32 multiply-adds where there is no bfloat16 product
    PeakLoop fp32;
};

extern const MachineLoops machine_plain;
extern const MachineLoops machine_avx2;
extern const MachineLoops machine_avx2_vnni;
extern const MachineLoops machine_avx512;
extern const MachineLoops machine_avx512_bf16;

// Gigabytes (1e9 bytes) a second of each of `passes` passes: `threads` threads read a buffer of `bytes` bytes once,
// a part each. The buffer should be much larger than all caches. Throws std::bad_alloc and std::system_error.
std::vector<double> read_rates(const MachineLoops& loops, int threads, size_t bytes, int passes);

// Giga-operations a second of `threads` threads together, in each of `passes` passes of about 25 ms.
std::vector<double> peak_rates(const PeakLoop& loop, int threads, int passes);

}  // namespace landrace
