// A function of Python's between two operations, on one thread while the others wait.
#pragma once

#include "operation.h"

namespace landrace {
namespace LANDRACE_ISA {

class CallPython final : public Operation {
public:
    static constexpr Field kSchema[] = {integer_field("index")};

    CallPython(const Fields& fields, Workspace&) : index_(static_cast<int>(fields.integer("index"))) {}

    void run(const Context& c, int thread) override {
        // The first thread is the one that Python itself came with.
        if (thread == 0) c.call(index_);
        c.pool.barrier();
    }

private:
    int index_;
};

LANDRACE_OPERATION(call, CallPython)

}  // namespace LANDRACE_ISA
}  // namespace landrace
