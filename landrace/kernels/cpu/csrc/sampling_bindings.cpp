// Python's view of token choice. landrace/kernels/cpu/sampling.py has checked the logits and the rows before.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <tuple>

#include "instruction_sets.h"

namespace nb = nanobind;
using namespace landrace;

namespace {

/// temperature, top_k, top_p, min_p: a landrace.kernels.sampling_rule.SamplingRule.
using Rule = std::tuple<double, int64_t, double, double>;

/// Address and number of the words of a row's mask; 0 for a row without one.
using Mask = std::tuple<uintptr_t, int64_t>;

std::vector<int64_t> choose(
    ThreadPool& pool, int threads, const std::string& isa, uintptr_t logits, int64_t stride, int64_t vocab, const std::vector<int64_t>& rows,
    const std::vector<Rule>& rules, const std::vector<double>& uniforms, const std::vector<Mask>& masks
) {
    const ChooseRow choose_row = instruction_set(isa).row_chooser();
    nb::gil_scoped_release release;
    std::vector<RowChoice> choices;
    choices.reserve(rows.size());
    for (size_t i = 0; i < rows.size(); ++i) {
        const auto& [temperature, top_k, top_p, min_p] = rules[i];
        const SamplingRule rule{static_cast<float>(temperature), top_k, static_cast<float>(top_p), min_p};
        const auto& [words, n_words] = masks[i];
        const TokenMask mask{reinterpret_cast<const uint32_t*>(words), n_words};
        choices.push_back({reinterpret_cast<const float*>(logits) + rows[i] * stride, rule, uniforms[i], mask});
    }
    return choose_tokens(pool, threads, choose_row, choices, vocab);
}

}  // namespace

void bind_sampling(nb::module_& m) {
    m.attr("NOT_FINITE") = kNotFinite;
    m.def("choose_tokens", &choose);
}
