// Values of enumerations by the names that Python knows them by.
#pragma once

#include <stdexcept>
#include <string>

#include "span.h"

namespace landrace {

/// The value of E that `names`, which are in the order of E, calls `name`. Throws std::invalid_argument where none does.
template <class E> E named(Span<const char* const> names, const std::string& name) {
    for (size_t i = 0; i < names.size(); ++i)
        if (name == names[i]) return static_cast<E>(i);
    throw std::invalid_argument("nothing is called " + name);
}

}  // namespace landrace
