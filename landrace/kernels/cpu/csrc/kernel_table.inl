// The table of kernels of the including file's instruction set.
#pragma once

#include "attention.inl"
#include "product.inl"
#include "rope.inl"

namespace landrace {
namespace LANDRACE_ISA {

const Kernels& kernels() {
    static const Kernels table = {
        LANDRACE_ISA_NAME, rms_norm, quantise, pair_up, product, unpack_row, swiglu, axpy, rope, attend, merge, finish,
    };
    return table;
}

}  // namespace LANDRACE_ISA
}  // namespace landrace
