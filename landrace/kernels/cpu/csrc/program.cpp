#include "program.h"

#include <chrono>
#include <stdexcept>

namespace landrace {

namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

/// Keeps what a call throws until the threads have come together; nothing is called after that.
class GuardedCall {
public:
    explicit GuardedCall(const Program::Call& call)
        : call_([this, &call](int index) {
              if (failure_) return;
              try {
                  call(index);
              } catch (...) {
                  failure_ = std::current_exception();
              }
          }) {}

    const Program::Call& call() const { return call_; }
    void rethrow() const {
        if (failure_) std::rethrow_exception(failure_);
    }

private:
    std::exception_ptr failure_;
    Program::Call call_;
};

}  // namespace

Operation::~Operation() = default;
void Operation::check(const Step&) const {}

const Registration& Program::registration(const std::string& operation) const {
    for (const Registration* known : known_)
        if (operation == known->name) return *known;
    throw std::invalid_argument("there is no operation " + operation);
}

void Program::add(const std::string& operation, std::string name, const Fields& fields) {
    const Workspace::Mark before = workspace_.mark();
    try {
        operations_.push_back({std::move(name), registration(operation).record(fields, workspace_)});
    } catch (...) {
        workspace_.take_back(before);
        throw;
    }
}

void Program::prepare(const Step& step, int threads) {
    if (threads < 1 || threads > pool_.size()) throw std::out_of_range("the pool does not have that many threads");
    workspace_.check(step);
    for (const Recorded& recorded : operations_) recorded.operation->check(step);
    workspace_.prepare(step, threads);
}

void Program::run(const Step& step, int threads, const Call& call) {
    const bool choose = threads == 0 && step.n_rows > 0;
    const int chosen = choose ? choice_.pick(step.n_rows) : threads == 0 ? 1 : threads;
    const auto start = Clock::now();
    prepare(step, chosen);
    const GuardedCall guarded(call);
    const Context context{step, chosen, pool_, workspace_, guarded.call()};
    pool_.run(chosen, [&](int thread) {
        for (const Recorded& recorded : operations_) recorded.operation->run(context, thread);
    });
    guarded.rethrow();
    if (choose) choice_.report(step.n_rows, seconds_since(start));
}

std::vector<Timing> Program::profile(const Step& step, int threads, const Call& call) {
    prepare(step, threads);
    const GuardedCall guarded(call);
    const Context context{step, threads, pool_, workspace_, guarded.call()};
    std::vector<Timing> timings;
    for (const Recorded& recorded : operations_) {
        const auto start = Clock::now();
        pool_.run(threads, [&](int thread) { recorded.operation->run(context, thread); });
        timings.push_back({recorded.name, seconds_since(start)});
    }
    guarded.rethrow();
    return timings;
}

}  // namespace landrace
