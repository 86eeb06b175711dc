// out = softmax(q k) v over those of the sequence's cached positions that the mask shows, with a sink and a slope for each head
// where there are any.
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

/// How the rows of a step are shared out: the same for all layers with such heads and such a mask.
class AttendPlan final : public State {
public:
    struct Task {
        int sequence, first_row, n_rows, first_head, n_heads;
        int first_chunk, end_chunk;
        int partial;  // index of the first partial result; -1: the task does all chunks itself
    };

    AttendPlan(const HeadShape& shape, const Mask& mask) : shape_(shape), mask_(mask) {}
    bool serves(const HeadShape& shape, const Mask& mask) const { return shape == shape_ && mask == mask_; }

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
                const auto first_chunk = static_cast<int>(mask_.first_seen(step.positions[first]) / kKeysPerChunk);
                const auto end_chunk = static_cast<int>(step.positions[first + n_rows - 1] / kKeysPerChunk) + 1;
                for (int kv = 0; kv < shape_.n_kv_heads; ++kv)
                    for (int h = 0; h < group; h += heads_together)
                        tasks_.push_back({s, first, n_rows, kv * group + h, std::min(heads_together, group - h), first_chunk, end_chunk, -1});
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
            if (task.end_chunk - task.first_chunk == 1) {
                tasks_.push_back(task);
                continue;
            }
            task.partial = n_partials;
            merges_.push_back(task);
            for (int chunk = task.first_chunk; chunk < task.end_chunk; ++chunk) {
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
    Mask mask_;
    std::vector<Task> tasks_, merges_;
    std::vector<Partial> partials_;
    std::vector<float> sums_;
};

class Attention final : public Operation {
public:
    static constexpr Field kSchema[] = {
        integer_field("layer"), integer_field("n_heads"), integer_field("n_kv_heads"), integer_field("head_dim"),
        buffer_field("q"), buffer_field("out"), optional(choice_field("mask", kMasks)), optional(integer_field("extent")),
        optional(vector_field("sinks")), optional(vector_field("slopes")),
    };

    Attention(const Fields& fields, Workspace& workspace)
        : layer_(static_cast<int>(fields.integer("layer"))), shape_(head_shape(fields)), q_(fields.buffer("q")), out_(fields.buffer("out")),
          mask_{fields.choice<Mask::Kind>("mask"), static_cast<int>(fields.integer("extent"))}, sinks_(fields.vector("sinks")),
          slopes_(fields.vector("slopes")), plan_(workspace.state<AttendPlan>(shape_, mask_)) {
        if ((mask_.kind == Mask::Kind::full) != (mask_.extent == 0) || mask_.extent < 0)
            throw std::invalid_argument("a window or a chunk holds at least one position, not " + std::to_string(mask_.extent));
        for (const Vector& each : {sinks_, slopes_})
            if (each.data && each.size != shape_.n_heads) throw std::invalid_argument("there is a sink or a slope for every head, or none");
        workspace.expect(q_, shape_.n_heads * shape_.head_dim);
        workspace.expect(out_, shape_.n_heads * shape_.head_dim);
        group_ = static_cast<size_t>(workspace.read_layer(layer_, shape_));
    }

    void check(const Step& step) const override {
        for (int s = 0; s < step.n_sequences; ++s) {
            if (step.starts[s] == step.starts[s + 1]) continue;
            const int64_t position = step.positions[step.starts[s]];
            const int64_t oldest = mask_.first_seen(position);
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
        job.mask = mask_;
        job.sinks = sinks_.data;
        job.slopes = slopes_.data;
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
    int q_, out_;
    Mask mask_;
    Vector sinks_, slopes_;
    AttendPlan& plan_;
};

LANDRACE_OPERATION(attention, Attention)

}  // namespace LANDRACE_ISA
}  // namespace landrace
