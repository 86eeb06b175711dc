// Python's view of the processor and of the machine's limits. Arguments are checked in machine.py.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <string>
#include <utility>
#include <vector>

#include "instruction_sets.h"

namespace nb = nanobind;
using namespace landrace;

namespace {

std::vector<std::string> names_of_sets() {
    std::vector<std::string> names;
    for (const InstructionSet& set : instruction_sets()) names.emplace_back(set.name);
    return names;
}

const MachineLoops& loops_of(const std::string& isa) { return *instruction_set(isa).machine; }

const PeakLoop& peak_of(const std::string& isa, const std::string& arithmetic) {
    const MachineLoops& loops = loops_of(isa);
    if (arithmetic == "int8") return loops.int8;
    if (arithmetic == "bf16") return loops.bf16;
    if (arithmetic == "fp32") return loops.fp32;
    throw nb::value_error(("no arithmetic is called " + arithmetic).c_str());
}

std::vector<double> measure_read(const std::string& isa, int threads, size_t bytes, int passes) {
    const MachineLoops& loops = loops_of(isa);
    const nb::gil_scoped_release released;
    return read_rates(loops, threads, bytes, passes);
}

std::vector<double> measure_peak(const std::string& isa, const std::string& kind, int threads, int passes) {
    const PeakLoop& loop = peak_of(isa, kind);
    const nb::gil_scoped_release released;
    return peak_rates(loop, threads, passes);
}

}  // namespace

void bind_machine(nb::module_& m) {
    m.def("instruction_sets", &names_of_sets,
          "The instruction sets this build has kernels for and this processor runs, best last.");
    m.def("processor_name", &processor_name, "What the processor calls itself; empty where it does not say.");
    m.def("measure_read", &measure_read, nb::arg("isa"), nb::arg("threads"), nb::arg("bytes"), nb::arg("passes"),
          "GB/s of each pass over a buffer of `bytes` bytes, read by `threads` threads together.");
    m.def("measure_peak", &measure_peak, nb::arg("isa"), nb::arg("kind"), nb::arg("threads"), nb::arg("passes"),
          "Giga-operations a second of each pass; `kind` is int8, bf16 or fp32. A multiply-add is two operations.");
    m.def(
        "peak_instruction",
        [](const std::string& isa, const std::string& kind) {
            return std::string(peak_of(isa, kind).instruction);
        },
        nb::arg("isa"), nb::arg("kind"), "The instruction that measure_peak times.");
    // The two loops themselves, so that a test can see that they do their work.
    m.def(
        "read_sum",
        [](const std::string& isa, nb::ndarray<const uint64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu> words) {
            return loops_of(isa).read_sum(words.data(), words.size());
        },
        nb::arg("isa"), nb::arg("words"), "The sum modulo 2^64, read as measure_read reads.");
    m.def(
        "run_peak",
        [](const std::string& isa, const std::string& kind, uint64_t rounds) {
            const PeakLoop& loop = peak_of(isa, kind);
            return std::pair<double, double>(loop.run(rounds), loop.operations * static_cast<double>(rounds));
        },
        nb::arg("isa"), nb::arg("kind"), nb::arg("rounds"),
        "The sum of the accumulators, one for each multiply-add, and the number of operations.");
}
