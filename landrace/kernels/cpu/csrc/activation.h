// How the two halves of a gated layer become one.
#pragma once

#include "fields.h"

namespace landrace {

/// With a limit l, clamp_before and oai take min(g, l) for the gate g, and they and clamp_after max(-l, min(u, l)) for the
/// up u. situ takes l tanh(u / l), or u where l is infinite.
enum class ActivationKind : int {
    swiglu,        // silu(g) * u
    clamp_before,  // silu(g) * u
    clamp_after,   // min(silu(g), l) * u
    oai,           // g * sigmoid(alpha * g) * (u + 1)
    situ,          // alpha * tanh(g / alpha) * sigmoid(g) * u
};
/// What Python calls them, in order.
inline constexpr const char* kActivations[] = {"swiglu", "clamp_before", "clamp_after", "oai", "situ"};

struct Activation {
    ActivationKind kind = ActivationKind::swiglu;
    float limit = 0.0f;
    float alpha = 0.0f;
};

inline constexpr Field kActivationSchema[] = {choice_field("kind", kActivations), number_field("limit"), number_field("alpha")};

/// The field `activation`, one record.
constexpr Field activation_field() { return records_field("activation", kActivationSchema); }

/// Its value; swiglu where it is not given. Throws std::invalid_argument for several.
inline Activation activation_of(const Fields& fields) {
    const std::vector<Fields> records = fields.records("activation");
    if (records.empty()) return {};
    if (records.size() > 1) throw std::invalid_argument("there are several activations");
    return {records[0].choice<ActivationKind>("kind"), records[0].number("limit"), records[0].number("alpha")};
}

}  // namespace landrace
