// Which instruction sets this build has kernels for, and which of them this processor runs.
#pragma once

#include <string>
#include <vector>

namespace landrace {

// Kernels exist once for each of these. A larger value is preferred where the processor has it.
enum class Isa { plain, avx2, avx2_vnni, avx512, avx512_bf16 };

// "plain", "avx2", "avx2_vnni", "avx512" or "avx512_bf16".
const char* isa_name(Isa isa);

// What this build was compiled for and this processor and its operating system support, best last; plain is first.
// avx2 stands for AVX2, FMA and F16C; avx2_vnni adds AVX-VNNI; avx512 stands for AVX-512 F, BW, VL, DQ and VNNI;
// avx512_bf16 adds AVX-512 BF16.
const std::vector<Isa>& available_isas();

// The one of available_isas() that is called so. Throws std::invalid_argument, which says `refusal` and the name.
Isa isa_named(const std::string& name, const char* refusal);

// The last of available_isas().
Isa best_isa();

// What the processor calls itself; empty where it does not say.
std::string processor_name();

}  // namespace landrace
