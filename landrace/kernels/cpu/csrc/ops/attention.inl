// out = softmax(q k) v over those of the sequence's cached positions that the mask shows, or that an operation before it has
// chosen, with a sink and a slope for each head where there are any.
#pragma once

#include <stdexcept>

#include "attend_plan.inl"

namespace landrace {
namespace LANDRACE_ISA {

class Attention final : public Operation {
public:
    static constexpr Field kSchema[] = {
        integer_field("layer"), integer_field("n_heads"), integer_field("n_kv_heads"), integer_field("head_dim"),
        buffer_field("q"), buffer_field("out"), optional(choice_field("mask", kMasks)), optional(integer_field("extent")),
        optional(vector_field("sinks")), optional(vector_field("slopes")), optional(integer_field("most")), optional(integer_field("onset")),
        optional(flag_field("together")),
        optional(integer_field("chunk")), optional(buffer_field("q_next")), optional(buffer_field("q_older")),
    };

    Attention(const Fields& fields, Workspace& workspace)
        : layer_(static_cast<int>(fields.integer("layer"))), shape_(head_shape(fields)), q_(fields.buffer("q")), out_(fields.buffer("out")),
          mask_(mask_of(fields)), sinks_(fields.vector("sinks")), slopes_(fields.vector("slopes")),
          choice_(choice_of(fields)), together_(fields.flag("together")),
          selected_(selected_by(workspace, choice_, together_ ? 1 : shape_.n_kv_heads, mask_)),
          chunk_(static_cast<int>(fields.integer("chunk"))), plan_(workspace.state<AttendPlan>(shape_, mask_, choice_)) {
        if (selected_ && (slopes_.data || chunk_)) throw std::invalid_argument("what is chosen has no distances and no dual chunks");
        for (const Vector& each : {sinks_, slopes_})
            if (each.data && each.size != shape_.n_heads) throw std::invalid_argument("there is a sink or a slope for every head, or none");
        workspace.expect(q_, shape_.n_heads * shape_.head_dim);
        workspace.expect(out_, shape_.n_heads * shape_.head_dim);
        if (chunk_ < 0 || (chunk_ > 0) != fields.has("q_next") || (chunk_ > 0) != fields.has("q_older") || (chunk_ > 0 && mask_.kind != Mask::Kind::full))
            throw std::invalid_argument("dual chunks have positions, two further queries and no mask");
        if (chunk_) {
            q_next_ = fields.buffer("q_next");
            q_older_ = fields.buffer("q_older");
            for (const int buffer : {q_next_, q_older_}) workspace.expect(buffer, shape_.n_heads * shape_.head_dim);
        }
        group_ = static_cast<size_t>(workspace.read_layer(layer_, shape_));
    }

    void check(const Step& step) const override { expect_seen(step, group_, mask_); }

    void run(const Context& c, int thread) override {
        attend_by_plan(c, thread, plan_, [&](const AttendPlan::Task& task) { return job_of(c, task); }, attend);
    }

private:
    AttendJob job_of(const Context& c, const AttendPlan::Task& task) const {
        AttendJob job = job_for(task, shape_, mask_, c, layer_, group_);
        job.sinks = sinks_.data;
        job.slopes = slopes_.data;
        job.q = c.row(q_, task.first_row);
        job.out = c.row(out_, task.first_row);
        job.chunk = chunk_;
        if (chunk_) {
            job.q_next = c.row(q_next_, task.first_row);
            job.q_older = c.row(q_older_, task.first_row);
        }
        if (selected_) see_chosen(job, *selected_, task.first_row, together_ ? 0 : task.first_head / (shape_.n_heads / shape_.n_kv_heads));
        return job;
    }

    int layer_;
    size_t group_;
    HeadShape shape_;
    int q_, out_;
    Mask mask_;
    Vector sinks_, slopes_;
    Choice choice_;
    bool together_;  // what is chosen is the same for all heads
    Selected* selected_;
    int chunk_, q_next_ = 0, q_older_ = 0;
    AttendPlan& plan_;
};

LANDRACE_OPERATION(attention, Attention)

}  // namespace LANDRACE_ISA
}  // namespace landrace
