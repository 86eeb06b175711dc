// How the rows of a step are shared out for attention, and what every operation of attention does with them.
#pragma once

#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "attend.inl"
#include "operation.h"
#include "selected.h"

namespace landrace {
namespace LANDRACE_ISA {

/// How the rows of a step are shared out: the same for all layers with such heads, such a mask and such a choice. `every`: before
/// what the mask shows come entries of so many positions, in chunks of their own, and the choice is of those; 0: there are none.
class AttendPlan final : public State {
public:
    struct Task {
        int sequence, first_row, n_rows, first_head, n_heads;
        int first_chunk, end_chunk;
        int partial;  // index of the first partial result; -1: the task does all chunks itself
        int first_of_mask = 0, entry_chunks = 0;  // the chunks before first_of_mask, as many, are of entries
    };

    AttendPlan(const HeadShape& shape, const Mask& mask, const Choice& choice, int every = 0)
        : shape_(shape), mask_(mask), choice_(choice), every_(every) {}
    bool serves(const HeadShape& shape, const Mask& mask, const Choice& choice, int every = 0) const {
        return shape == shape_ && mask == mask_ && choice == choice_ && every == every_;
    }

    const std::vector<Task>& tasks() const { return tasks_; }
    /// Tasks whose chunks were computed by others.
    const std::vector<Task>& merges() const { return merges_; }
    int padded_dim() const { return shape_.padded_dim; }
    Partial* partials(int index) { return &partials_[static_cast<size_t>(index) * kRowsAttending]; }
    float* sums(int index) { return &sums_[static_cast<size_t>(index) * sums_stride()]; }

    void prepare(const Step& step, int threads) override {
        tasks_.clear();
        merges_.clear();
        const int group = shape_.n_heads / shape_.n_kv_heads;
        // As many in each task: tasks of few heads would read the same keys for less.
        const int heads_together = ceil_div(group, ceil_div(group, kRowsAttending));
        const int rows_together = choice_.most || every_ ? 1 : kRowsAttending / heads_together;
        for (int s = 0; s < step.n_sequences; ++s) {
            const int begin = static_cast<int>(step.starts[s]), end = static_cast<int>(step.starts[s + 1]);
            // Last rows first: they see the most keys, and a long task at the end would keep the others waiting.
            for (int block = ceil_div(end - begin, rows_together) - 1; block >= 0; --block) {
                const int first = begin + block * rows_together;
                const int n_rows = std::min(rows_together, end - first);
                const auto first_chunk = static_cast<int>(mask_.first_seen(step.positions[first]) / kKeysPerChunk);
                const int64_t last = mask_.last_seen(step.positions[first + n_rows - 1], step.positions[end - 1]), n_entries = every_ ? (last + 1) / every_ : 0;
                const auto end_chunk = static_cast<int>((!every_ && choice_.has(last) ? choice_.most - 1 : last) / kKeysPerChunk) + 1;
                const int entry_chunks = ceil_div(static_cast<int>(choice_.has(n_entries - 1) ? choice_.most : n_entries), kKeysPerChunk);
                for (int kv = 0; kv < shape_.n_kv_heads; ++kv)
                    for (int h = 0; h < group; h += heads_together)
                        tasks_.push_back({s, first, n_rows, kv * group + h, std::min(heads_together, group - h), first_chunk - entry_chunks, end_chunk, -1,
                                          first_chunk, entry_chunks});
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
    Choice choice_;
    int every_;
    std::vector<Task> tasks_, merges_;
    std::vector<Partial> partials_;
    std::vector<float> sums_;
};

/// The fields mask and extent. Throws std::invalid_argument where they do not go together.
inline Mask mask_of(const Fields& fields) {
    const Mask mask{fields.choice<Mask::Kind>("mask"), static_cast<int>(fields.integer("extent"))};
    if (mask.has_extent() != (mask.extent > 0) || mask.extent < 0)
        throw std::invalid_argument("a window or a chunk holds at least one position, not " + std::to_string(mask.extent));
    return mask;
}

/// Throws std::out_of_range where a row sees a position that its cache group no longer has.
inline void expect_seen(const Step& step, size_t group, const Mask& mask) {
    for (int s = 0; s < step.n_sequences; ++s) {
        if (step.starts[s] == step.starts[s + 1]) continue;
        const int64_t oldest = mask.first_seen(step.positions[step.starts[s]]);
        if (oldest < step.groups[group].first_positions[s]) throw std::out_of_range("position " + std::to_string(oldest) + " is seen and not there");
    }
}

/// A task's job but for its queries, its results and what is added to its scores.
inline AttendJob job_for(const AttendPlan::Task& task, const HeadShape& shape, const Mask& mask, const Context& c, int layer, size_t group) {
    AttendJob job{};
    job.shape = shape;
    job.cache = c.workspace.cache(layer);
    job.slots = c.step.groups[group].by_position(task.sequence);
    job.mask = mask;
    job.first_head = task.first_head;
    job.n_heads = task.n_heads;
    job.n_rows = task.n_rows;
    job.first_position = c.step.positions[task.first_row];
    job.last_position = c.step.positions[c.step.starts[task.sequence + 1] - 1];
    return job;
}

/// Where the job's one row has a list of positions, it sees those.
inline void see_chosen(AttendJob& job, Selected& selected, int row, int list) {
    if (!selected.has_lists(job.first_position)) return;
    job.chosen = selected.of(row, list);
    job.first_position = selected.count(row, list) - 1;
}

/// The fields most and onset, which is `most` where it is not there.
inline Choice choice_of(const Fields& fields) {
    const auto most = static_cast<int>(fields.integer("most"));
    return {most, fields.has("onset") ? static_cast<int>(fields.integer("onset")) : most};
}

/// The choice that an operation recorded before makes; null where there is none to be made. Throws std::invalid_argument.
inline Selected* selected_by(Workspace& workspace, const Choice& choice, int n_lists, const Mask& mask) {
    if (choice.most == 0) return nullptr;
    if (choice.most < 0 || mask.kind != Mask::Kind::full) throw std::invalid_argument("positions are chosen among all");
    Selected& selected = workspace.state<Selected>(choice, n_lists);
    if (!selected.is_written) throw std::invalid_argument("nobody chooses " + std::to_string(choice.most) + " positions");
    return &selected;
}

/// Computes the plan's tasks: `job_of` makes a task's job, `attend` computes one chunk of it.
template <class JobOf, class Attend> void attend_by_plan(const Context& c, int thread, AttendPlan& plan, JobOf job_of, Attend attend) {
    Partial own[kRowsAttending], part[kRowsAttending];
    alignas(64) float own_sums[kRowsAttending * kMaxHeadDim], part_sums[kRowsAttending * kMaxHeadDim];
    c.share(thread, static_cast<int>(plan.tasks().size()), [&](int index) {
        const AttendPlan::Task& task = plan.tasks()[static_cast<size_t>(index)];
        const auto job = job_of(task);
        if (task.partial >= 0) return attend(job, task.first_chunk, plan.partials(task.partial), plan.sums(task.partial));
        attend(job, task.first_chunk, own, own_sums);
        for (int chunk = task.first_chunk + 1; chunk < task.end_chunk; ++chunk) {
            attend(job, chunk, part, part_sums);
            merge(own, own_sums, part, part_sums, task.n_rows * task.n_heads, plan.padded_dim());
        }
        finish(job, own, own_sums);
    });
    if (plan.merges().empty()) return;
    c.share(thread, static_cast<int>(plan.merges().size()), [&](int index) {
        const AttendPlan::Task& task = plan.merges()[static_cast<size_t>(index)];
        for (int i = 1; i < task.end_chunk - task.first_chunk; ++i)
            merge(plan.partials(task.partial), plan.sums(task.partial), plan.partials(task.partial + i), plan.sums(task.partial + i),
                  task.n_rows * task.n_heads, plan.padded_dim());
        finish(job_of(task), plan.partials(task.partial), plan.sums(task.partial));
    });
}

}  // namespace LANDRACE_ISA
}  // namespace landrace
