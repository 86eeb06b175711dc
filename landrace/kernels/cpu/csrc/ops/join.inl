// out = the rows of several buffers side by side.
#pragma once

#include <cstring>
#include <stdexcept>

#include "operation.h"

namespace landrace {
namespace LANDRACE_ISA {

class Join final : public Operation {
public:
    static constexpr Field kPart[] = {buffer_field("x")};
    static constexpr Field kSchema[] = {records_field("parts", kPart), buffer_field("out")};

    Join(const Fields& fields, Workspace& workspace) : out_(fields.buffer("out")) {
        int width = 0;
        for (const Fields& part : fields.records("parts")) {
            parts_.push_back(part.buffer("x"));
            width += workspace.checked_width(parts_.back());
            if (parts_.back() == out_) throw std::invalid_argument("rows cannot become a part of themselves");
        }
        workspace.expect(out_, width);
    }

    void run(const Context& c, int thread) override {
        c.share(thread, c.step.n_rows, [&](int row) {
            float* out = c.row(out_, row);
            for (const int part : parts_) {
                const int64_t width = c.workspace.width(part);
                std::memcpy(out, c.row(part, row), sizeof(float) * static_cast<size_t>(width));
                out += width;
            }
        });
    }

private:
    std::vector<int> parts_;
    int out_;
};

LANDRACE_OPERATION(join, Join)

}  // namespace LANDRACE_ISA
}  // namespace landrace
