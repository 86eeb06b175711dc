// out = softmax(q k) v over the sequence's cached positions up to the row's own, at most `window` of them.
#pragma once

#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "attend.inl"
#include "operation.h"

namespace landrace {
namespace LANDRACE_ISA {

/// How the rows of a step are shared out: the same for all layers with such heads.
class AttendPlan final : public State {
public:
    struct Task {
        int sequence, first_row, n_rows, first_head, n_heads;
        int first_chunk, end_chunk;
        int partial;  // index of the first partial result; -1: the task does all chunks itself
    };

    explicit AttendPlan(const HeadShape& shape) : shape_(shape) {}
    bool serves(const HeadShape& shape) const { return shape == shape_; }

    const std::vector<Task>& tasks() const { return tasks_; }
    /// Tasks whose chunks were computed by others.
    const std::vector<Task>& merges() const { return merges_; }
    Partial* partials(int index) { return &partials_[static_cast<size_t>(index) * kRowsAttending]; }
    float* sums(int index) { return &sums_[static_cast<size_t>(index) * sums_stride()]; }

    void prepare(const Step& step, int threads) override {
        tasks_.clear();
        merges_.clear();
        const int group = shape_.n_heads / shape_.n_kv_heads;
        const int heads_together = std::min(group, kRowsAttending);
        const int rows_together = kRowsAttending / heads_together;
        for (int s = 0; s < step.n_sequences; ++s) {
            const int begin = static_cast<int>(step.starts[s]), end = static_cast<int>(step.starts[s + 1]);
            // Last rows first: they see the most keys, and a long task at the end would keep the others waiting.
            for (int block = ceil_div(end - begin, rows_together) - 1; block >= 0; --block) {
                const int first = begin + block * rows_together;
                const int n_rows = std::min(rows_together, end - first);
                const int64_t last = step.positions[first + n_rows - 1];
                const int n_chunks = static_cast<int>(last / kKeysPerChunk) + 1;
                for (int kv = 0; kv < shape_.n_kv_heads; ++kv)
                    for (int h = 0; h < group; h += heads_together)
                        tasks_.push_back({s, first, n_rows, kv * group + h, std::min(heads_together, group - h), 0, n_chunks, -1});
            }
        }
        if (threads > 1 && static_cast<int>(tasks_.size()) < 4 * threads) split();
    }

private:
    size_t sums_stride() const { return static_cast<size_t>(kRowsAttending) * static_cast<size_t>(shape_.padded_dim); }

    /// Few tasks: their chunks are computed side by side and merged afterwards, in the same order.
    void split() {
        std::vector<Task> whole;
        std::swap(whole, tasks_);
        int n_partials = 0;
        for (Task& task : whole) {
            if (task.end_chunk == 1) {
                tasks_.push_back(task);
                continue;
            }
            task.partial = n_partials;
            merges_.push_back(task);
            for (int chunk = 0; chunk < task.end_chunk; ++chunk) {
                Task part = task;
                part.first_chunk = chunk;
                part.end_chunk = chunk + 1;
                part.partial = n_partials++;
                tasks_.push_back(part);
            }
        }
        const auto n = static_cast<size_t>(n_partials);
        if (partials_.size() < n * kRowsAttending) partials_.resize(n * kRowsAttending);
        if (sums_.size() < n * sums_stride()) sums_.resize(n * sums_stride());
    }

    HeadShape shape_;
    std::vector<Task> tasks_, merges_;
    std::vector<Partial> partials_;
    std::vector<float> sums_;
};

class Attention final : public Operation {
public:
    static constexpr Field kSchema[] = {
        integer_field("layer"), integer_field("n_heads"), integer_field("n_kv_heads"), integer_field("head_dim"),
        buffer_field("q"), buffer_field("out"), optional(integer_field("window")),
    };

    Attention(const Fields& fields, Workspace& workspace)
        : layer_(static_cast<int>(fields.integer("layer"))), shape_(head_shape(fields)), q_(fields.buffer("q")), out_(fields.buffer("out")),
          window_(static_cast<int>(fields.integer("window"))), plan_(workspace.state<AttendPlan>(shape_)) {
        workspace.expect(q_, shape_.n_heads * shape_.head_dim);
        workspace.expect(out_, shape_.n_heads * shape_.head_dim);
        group_ = static_cast<size_t>(workspace.read_layer(layer_, shape_));
    }

    void check(const Step& step) const override {
        for (int s = 0; s < step.n_sequences; ++s) {
            if (step.starts[s] == step.starts[s + 1]) continue;
            const int64_t position = step.positions[step.starts[s]];
            const int64_t oldest = window_ && position + 1 > window_ ? position + 1 - window_ : 0;
            if (oldest < step.groups[group_].first_positions[s]) throw std::out_of_range("position " + std::to_string(oldest) + " is seen and not there");
        }
    }

    void run(const Context& c, int thread) override {
        Partial own[kRowsAttending], part[kRowsAttending];
        alignas(64) float own_sums[kRowsAttending * kMaxHeadDim], part_sums[kRowsAttending * kMaxHeadDim];
        c.share(thread, static_cast<int>(plan_.tasks().size()), [&](int index) {
            const AttendPlan::Task& task = plan_.tasks()[static_cast<size_t>(index)];
            const AttendJob job = job_of(c, task);
            if (task.partial >= 0) return attend(job, task.first_chunk, plan_.partials(task.partial), plan_.sums(task.partial));
            attend(job, task.first_chunk, own, own_sums);
            for (int chunk = task.first_chunk + 1; chunk < task.end_chunk; ++chunk) {
                attend(job, chunk, part, part_sums);
                merge(own, own_sums, part, part_sums, task.n_rows * task.n_heads, shape_.padded_dim);
            }
            finish(job, own, own_sums);
        });
        if (plan_.merges().empty()) return;
        c.share(thread, static_cast<int>(plan_.merges().size()), [&](int index) {
            const AttendPlan::Task& task = plan_.merges()[static_cast<size_t>(index)];
            for (int i = 1; i < task.end_chunk - task.first_chunk; ++i)
                merge(plan_.partials(task.partial), plan_.sums(task.partial), plan_.partials(task.partial + i), plan_.sums(task.partial + i),
                      task.n_rows * task.n_heads, shape_.padded_dim);
            finish(job_of(c, task), plan_.partials(task.partial), plan_.sums(task.partial));
        });
    }

private:
    AttendJob job_of(const Context& c, const AttendPlan::Task& task) const {
        AttendJob job{};
        job.shape = shape_;
        job.cache = c.workspace.cache(layer_);
        job.slots = c.step.groups[group_].by_position(task.sequence);
        job.window = window_;
        job.first_head = task.first_head;
        job.n_heads = task.n_heads;
        job.n_rows = task.n_rows;
        job.first_position = c.step.positions[task.first_row];
        job.q = c.row(q_, task.first_row);
        job.out = c.row(out_, task.first_row);
        return job;
    }

    int layer_;
    size_t group_;
    HeadShape shape_;
    int q_, out_, window_;
    AttendPlan& plan_;
};

LANDRACE_OPERATION(attention, Attention)

}  // namespace LANDRACE_ISA
}  // namespace landrace
