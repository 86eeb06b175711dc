// out = softmax(q k) c over those of the sequence's cached positions that the mask shows, or that the last `select` has chosen,
// with a sink for each head where there are any: k is a latent c and the rotated channels beside it, and all heads share it.
#pragma once

#include <stdexcept>

#include "latents.inl"
#include "attend_plan.inl"

namespace landrace {
namespace LANDRACE_ISA {

class AttendLatents final : public Operation {
public:
    static constexpr Field kSchema[] = {
        integer_field("layer"), integer_field("n_heads"), integer_field("rank"), integer_field("rope_dim"), buffer_field("q"),
        buffer_field("out"), optional(choice_field("mask", kMasks)), optional(integer_field("extent")),
        optional(integer_field("most")), optional(vector_field("sinks")),
    };

    AttendLatents(const Fields& fields, Workspace& workspace)
        : layer_(static_cast<int>(fields.integer("layer"))), latents_(latent_shape(fields)), q_(fields.buffer("q")), out_(fields.buffer("out")),
          mask_(mask_of(fields)), choice_(choice_of(fields)), sinks_(fields.vector("sinks")),
          selected_(selected_by(workspace, choice_, 1, mask_)), plan_(workspace.state<AttendPlan>(latents_.heads(), mask_, choice_)) {
        if (sinks_.data && sinks_.size != latents_.n_heads) throw std::invalid_argument("there is a sink for every head, or none");
        workspace.expect(q_, latents_.n_heads * latents_.key_dim());
        workspace.expect(out_, latents_.n_heads * latents_.rank);
        group_ = static_cast<size_t>(workspace.read_layer(layer_, latents_));
    }

    void check(const Step& step) const override { expect_seen(step, group_, mask_); }

    void run(const Context& c, int thread) override {
        const auto job_of = [&](const AttendPlan::Task& task) {
            AttendJob job = job_for(task, latents_.heads(), mask_, c, layer_, group_);
            job.sinks = sinks_.data;
            job.q = c.row(q_, task.first_row);
            job.out = c.row(out_, task.first_row);
            if (selected_) see_chosen(job, *selected_, task.first_row, 0);
            return job;
        };
        attend_by_plan(c, thread, plan_, job_of, [&](const AttendJob& job, int chunk, Partial* partials, float* sums) {
            attend_latents(job, latents_, chunk, partials, sums);
        });
    }

private:
    int layer_;
    size_t group_;
    LatentShape latents_;
    int q_, out_;
    Mask mask_;
    Choice choice_;
    Vector sinks_;
    Selected* selected_;
    AttendPlan& plan_;
};

LANDRACE_OPERATION(attend_latents, AttendLatents)

}  // namespace LANDRACE_ISA
}  // namespace landrace
