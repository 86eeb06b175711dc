// x = outer * f(inner * x), in place.
#pragma once

#include <algorithm>

#include "activations.inl"
#include "operation.h"

namespace landrace {
namespace LANDRACE_ISA {

class Activate final : public Operation {
    enum class Kind { silu, sigmoid, gelu, gelu_tanh, relu, tanh };
    static constexpr const char* kKinds[] = {"silu", "sigmoid", "gelu", "gelu_tanh", "relu", "tanh"};

public:
    static constexpr Field kSchema[] = {buffer_field("x"), choice_field("kind", kKinds), number_field("inner"), number_field("outer")};

    Activate(const Fields& fields, Workspace& workspace)
        : x_(fields.buffer("x")), width_(workspace.checked_width(x_)), kind_(fields.choice<Kind>("kind")), inner_(fields.number("inner")),
          outer_(fields.number("outer")) {}

    void run(const Context& c, int thread) override {
        c.share(thread, c.step.n_rows, [&](int row) {
            float* x = c.row(x_, row);
            for (int i = 0; i < width_; i += kLanes) {
                const int n = std::min(kLanes, width_ - i);
                const Floats z = mul(load_some(x + i, n), all(inner_));
                store_some(x + i, mul(value(z), all(outer_)), n);
            }
        });
    }

private:
    Floats value(Floats z) const {
        switch (kind_) {
            case Kind::silu: return swish(z, z);
            case Kind::sigmoid: return sigmoid(z);
            case Kind::gelu: return gelu(z);
            case Kind::gelu_tanh: return gelu_tanh(z);
            case Kind::relu: return max(all(0.0f), z);
            case Kind::tanh: return tanh(z);
        }
        return z;
    }

    int x_, width_;
    Kind kind_;
    float inner_, outer_;
};

LANDRACE_OPERATION(activate, Activate)

}  // namespace LANDRACE_ISA
}  // namespace landrace
