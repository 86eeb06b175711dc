// Python's view of the processor and of the machine's limits. Arguments are checked in machine.py.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <string>
#include <utility>
#include <vector>

#include "cpu_features.h"
#include "machine.h"

namespace nb = nanobind;
using namespace landrace;

namespace {

std::vector<std::string> instruction_sets() {
    std::vector<std::string> names;
    for (Isa isa : available_isas()) names.emplace_back(isa_name(isa));
    return names;
}

Isa isa_of(const std::string& name) { return isa_named(name, "this build or processor has no instruction set"); }

Kind kind_of(const std::string& name) {
    if (name == "int8") return Kind::int8;
    if (name == "bf16") return Kind::bf16;
    if (name == "fp32") return Kind::fp32;
    throw nb::value_error(("no arithmetic is called " + name).c_str());
}

std::vector<double> measure_read(const std::string& isa, int threads, size_t bytes, int passes) {
    const Isa known = isa_of(isa);
    const nb::gil_scoped_release released;
    return read_rates(known, threads, bytes, passes);
}

std::vector<double> measure_peak(const std::string& isa, const std::string& kind, int threads, int passes) {
    const Isa known = isa_of(isa);
    const Kind arithmetic = kind_of(kind);
    const nb::gil_scoped_release released;
    return peak_rates(known, arithmetic, threads, passes);
}

}  // namespace

void bind_machine(nb::module_& m) {
    m.def("instruction_sets", &instruction_sets,
          "The instruction sets this build has kernels for and this processor runs, best last.");
    m.def("processor_name", &processor_name, "What the processor calls itself; empty where it does not say.");
    m.def("measure_read", &measure_read, nb::arg("isa"), nb::arg("threads"), nb::arg("bytes"), nb::arg("passes"),
          "GB/s of each pass over a buffer of `bytes` bytes, read by `threads` threads together.");
    m.def("measure_peak", &measure_peak, nb::arg("isa"), nb::arg("kind"), nb::arg("threads"), nb::arg("passes"),
          "Giga-operations a second of each pass; `kind` is int8, bf16 or fp32. A multiply-add is two operations.");
    m.def(
        "peak_instruction",
        [](const std::string& isa, const std::string& kind) {
            return std::string(peak_loop(isa_of(isa), kind_of(kind)).instruction);
        },
        nb::arg("isa"), nb::arg("kind"), "The instruction that measure_peak times.");
    // The two loops themselves, so that a test can see that they do their work.
    m.def(
        "read_sum",
        [](const std::string& isa, nb::ndarray<const uint64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu> words) {
            return machine_loops(isa_of(isa)).read_sum(words.data(), words.size());
        },
        nb::arg("isa"), nb::arg("words"), "The sum modulo 2^64, read as measure_read reads.");
    m.def(
        "run_peak",
        [](const std::string& isa, const std::string& kind, uint64_t rounds) {
            const PeakLoop& loop = peak_loop(isa_of(isa), kind_of(kind));
            return std::pair<double, double>(loop.run(rounds), loop.operations * static_cast<double>(rounds));
        },
        nb::arg("isa"), nb::arg("kind"), nb::arg("rounds"),
        "The sum of the accumulators, one for each multiply-add, and the number of operations.");
}
