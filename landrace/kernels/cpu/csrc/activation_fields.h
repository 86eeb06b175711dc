// An activation among an operation's fields.
#pragma once

#include <stdexcept>

#include "fields.h"
#include "product.h"

namespace landrace {

constexpr Field kActivationField = optional(choice_field("activation", kActivations));
constexpr Field kLimitField = optional(number_field("limit"));
constexpr Field kAlphaField = optional(number_field("alpha"));

/// The activation of these three fields. Throws std::invalid_argument where it needs a limit and has none.
inline Activation activation_of(const Fields& fields) {
    const Activation activation{fields.choice<Activation::Kind>("activation"), fields.number("limit"), fields.number("alpha")};
    if (activation.kind != Activation::Kind::swiglu && !(activation.limit > 0)) throw std::invalid_argument("an activation with a limit needs one above 0");
    return activation;
}

}  // namespace landrace
