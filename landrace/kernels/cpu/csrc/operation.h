// An operation of a program: how it is recorded and how it runs.
//
// One file ops/x.inl holds all of operation x: what it computes, the fields it is recorded with, and its registration as
// `x_operation`. The build finds the file and compiles it for every instruction set, in that set's namespace.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "fields.h"
#include "thread_pool.h"
#include "workspace.h"

namespace landrace {

/// A step, to an operation that runs.
struct Context {
    const Step& step;
    int threads;  // that run together
    ThreadPool& pool;
    Workspace& workspace;
    const std::function<void(int)>& call;  // Python's function of a number

    float* row(int buffer, int64_t row) const { return workspace.rows(buffer) + row * workspace.width(buffer); }

    /// Calls work(piece) for the `n` pieces that this thread finds, and waits until all threads are done with theirs.
    template <class F> void share(int thread, int n, F work) const {
        for (int piece; (piece = pool.claim(thread, n)) < n;) work(piece);
        pool.barrier();
    }
};

class Operation {
public:
    virtual ~Operation();
    /// Throws std::out_of_range for a step that the operation cannot take.
    virtual void check(const Step& step) const;
    /// Computes its part of a step. Every thread calls it, and it ends at a barrier. It must not throw.
    virtual void run(const Context& context, int thread) = 0;
};

/// How Python finds an operation.
struct Registration {
    const char* name;
    Span<const Field> schema;
    /// Throws std::invalid_argument for fields that do not go together.
    std::unique_ptr<Operation> (*record)(const Fields&, Workspace&);
};

/// At the end of ops/x.inl: operation x is a `Type`, made from Type(fields, workspace), with the schema `Type::kSchema`.
#define LANDRACE_OPERATION(x, Type) \
    constexpr Registration x##_operation = { \
        #x, Type::kSchema, [](const Fields& fields, Workspace& workspace) -> std::unique_ptr<Operation> { \
            return std::make_unique<Type>(fields, workspace); \
        }};

}  // namespace landrace
