// A forward pass as a list of operations over buffers: recorded once, replayed for every step by one call.
#pragma once

#include <exception>
#include <memory>
#include <string>
#include <vector>

#include "operation.h"
#include "thread_choice.h"

namespace landrace {

/// One operation's time in a replay.
struct Timing {
    std::string name;
    double seconds;
};

class Program {
public:
    using Call = std::function<void(int)>;

    Program(Span<const Registration* const> operations, ThreadPool& pool) : known_(operations), pool_(pool), choice_(pool.size()) {}

    /// The fields of an operation. Throws std::invalid_argument where there is none of that name.
    Span<const Field> schema(const std::string& operation) const { return registration(operation).schema; }
    /// Records an operation. Throws std::invalid_argument also where its fields do not go together.
    void add(const std::string& operation, std::string name, const Fields& fields);
    Workspace& workspace() { return workspace_; }

    /// Computes a step with `threads` threads of the pool; 0: as many as were fastest lately. `call` is what the operation
    /// of that name calls; what it throws is thrown on.
    void run(const Step& step, int threads, const Call& call);
    /// The same, one operation after another, each timed.
    std::vector<Timing> profile(const Step& step, int threads, const Call& call);

private:
    struct Recorded {
        std::string name;
        std::unique_ptr<Operation> operation;
    };

    const Registration& registration(const std::string& operation) const;
    void prepare(const Step& step, int threads);

    Span<const Registration* const> known_;
    ThreadPool& pool_;
    ThreadChoice choice_;
    Workspace workspace_;
    std::vector<Recorded> operations_;
};

}  // namespace landrace
