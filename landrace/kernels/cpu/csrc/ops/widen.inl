// out = x, as many times side by side as `out` has room for.
#pragma once

#include <cstring>
#include <stdexcept>

#include "operation.h"

namespace landrace {
namespace LANDRACE_ISA {

class Widen final : public Operation {
public:
    static constexpr Field kSchema[] = {buffer_field("x"), buffer_field("out")};

    Widen(const Fields& fields, Workspace& workspace)
        : x_(fields.buffer("x")), out_(fields.buffer("out")), width_(workspace.checked_width(x_)), count_(workspace.checked_width(out_) / width_) {
        if (x_ == out_) throw std::invalid_argument("a row cannot be widened in its place");
        workspace.expect(out_, count_ * width_);
    }

    void run(const Context& c, int thread) override {
        c.share(thread, c.step.n_rows, [&](int row) {
            for (int i = 0; i < count_; ++i) std::memcpy(c.row(out_, row) + i * width_, c.row(x_, row), sizeof(float) * static_cast<size_t>(width_));
        });
    }

private:
    int x_, out_, width_, count_;
};

LANDRACE_OPERATION(widen, Widen)

}  // namespace LANDRACE_ISA
}  // namespace landrace
