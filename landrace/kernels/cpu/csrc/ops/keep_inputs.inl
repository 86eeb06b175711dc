// What rows are compressed from into the cache: what is summed, and behind it what weights it.
#pragma once

#include <algorithm>

#include "operation.h"

namespace landrace {
namespace LANDRACE_ISA {

class KeepInputs final : public Operation {
public:
    static constexpr Field kSchema[] = {integer_field("layer"), integer_field("width"), buffer_field("values"), buffer_field("gates"), optional(integer_field("group"))};

    KeepInputs(const Fields& fields, Workspace& workspace)
        : layer_(static_cast<int>(fields.integer("layer"))), shape_(input_shape(fields)), values_(fields.buffer("values")), gates_(fields.buffer("gates")),
          group_(static_cast<size_t>(fields.integer("group"))) {
        workspace.expect(values_, shape_.width / 2);
        workspace.expect(gates_, shape_.width - shape_.width / 2);
        workspace.write_layer(layer_, shape_, static_cast<int>(group_));
    }

    void run(const Context& c, int thread) override {
        const int half = shape_.width / 2;
        c.share(thread, c.step.n_rows, [&](int row) {
            float* out = c.workspace.cache(layer_).inputs(shape_, c.step.groups[group_].write_slots[row]);
            std::copy_n(c.row(values_, row), half, out);
            std::copy_n(c.row(gates_, row), half, out + half);
        });
    }

private:
    int layer_;
    InputShape shape_;
    int values_, gates_;
    size_t group_;
};

LANDRACE_OPERATION(keep_inputs, KeepInputs)

}  // namespace LANDRACE_ISA
}  // namespace landrace
