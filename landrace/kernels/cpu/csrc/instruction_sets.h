// Which instruction sets this build has kernels for, and which of them this processor runs.
#pragma once

#include <string>
#include <vector>

#include "machine.h"
#include "operation.h"
#include "quantising.h"
#include "sampling.h"

namespace landrace {

/// What is compiled once for each instruction set.
struct InstructionSet {
    const char* name;
    Span<const Registration* const> (*operations)();
    ChooseRow (*row_chooser)();
    Quantisers (*quantisers)();
    const MachineLoops* machine;
};

/// What this build was compiled for and this processor and its operating system support, best last; plain is first.
/// avx2 stands for AVX2, FMA and F16C; avx2_vnni adds AVX-VNNI; avx512 stands for AVX-512 F, BW, VL, DQ and VNNI;
/// avx512_bf16 adds AVX-512 BF16.
const std::vector<InstructionSet>& instruction_sets();

/// The one of instruction_sets() that is called so. Throws std::invalid_argument for any other name.
const InstructionSet& instruction_set(const std::string& name);

/// What the processor calls itself; empty where it does not say.
std::string processor_name();

}  // namespace landrace
