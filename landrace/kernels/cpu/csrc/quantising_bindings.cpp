// Python's view of quantisation. landrace/kernels/cpu/quantising.py has checked types, shapes and strides before.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#include "instruction_sets.h"
#include "named.h"

namespace nb = nanobind;
using namespace landrace;

void bind_quantising(nb::module_& m) {
    m.def("quantise_weights", [](ThreadPool& pool, const std::string& isa, const std::string& source, const std::string& target, uintptr_t from, int64_t n_blocks, uintptr_t to) {
        const Quantisers quantisers = instruction_set(isa).quantisers();
        const auto source_kind = named<Kind>(kKinds, source), target_kind = named<Kind>(kKinds, target);
        nb::gil_scoped_release release;
        return quantise_weights(
            pool, quantisers, source_kind, target_kind, reinterpret_cast<const uint8_t*>(from), n_blocks, reinterpret_cast<uint8_t*>(to));
    });
}
