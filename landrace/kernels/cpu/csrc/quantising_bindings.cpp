// Python's view of quantisation. landrace/kernels/cpu/quantising.py has checked types, shapes and strides before.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#include "quantising.h"

namespace nb = nanobind;
using namespace landrace;

void bind_quantising(nb::module_& m) {
    m.def("quantise_weights", [](ThreadPool& pool, const std::string& isa, int source, int target, uintptr_t from, int64_t n_blocks, uintptr_t to) {
        nb::gil_scoped_release release;
        return quantise_weights(
            pool, isa, static_cast<Kind>(source), static_cast<Kind>(target), reinterpret_cast<const uint8_t*>(from), n_blocks,
            reinterpret_cast<uint8_t*>(to));
    });
}
