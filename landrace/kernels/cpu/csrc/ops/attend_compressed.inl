// out = softmax(q k) k over a row's compressed rows, all that are there or those that the last `select` has chosen, and over the
// positions of its window, with a sink for each head: keys are their own values, and all heads share them.
//
// Compressed rows come first, in chunks of 256 of their own, and then the window in chunks of 256 positions.
#pragma once

#include <stdexcept>

#include "attend_plan.inl"
#include "latents.inl"

namespace landrace {
namespace LANDRACE_ISA {

class AttendCompressed final : public Operation {
public:
    static constexpr Field kSchema[] = {
        integer_field("layer"), integer_field("compressed"), integer_field("n_heads"), integer_field("rank"), integer_field("rope_dim"), buffer_field("q"),
        buffer_field("out"), choice_field("mask", kMasks), integer_field("extent"), integer_field("ratio"), optional(integer_field("most")), vector_field("sinks"),
    };

    AttendCompressed(const Fields& fields, Workspace& workspace)
        : layer_(static_cast<int>(fields.integer("layer"))), compressed_(static_cast<int>(fields.integer("compressed"))), latents_(latent_shape(fields)),
          q_(fields.buffer("q")), out_(fields.buffer("out")), mask_(mask_of(fields)), ratio_(static_cast<int>(fields.integer("ratio"))),
          choice_(choice_of(fields)), sinks_(fields.vector("sinks")), selected_(selected_by(workspace, choice_, 1, {Mask::Kind::full, 0})),
          plan_(workspace.state<AttendPlan>(latents_.heads(), mask_, choice_, ratio_)) {
        if (sinks_.size != latents_.n_heads) throw std::invalid_argument("there is a sink for every head");
        if (ratio_ < 2) throw std::invalid_argument("a compressed row stands for at least two positions");
        workspace.expect(q_, latents_.n_heads * latents_.key_dim());
        workspace.expect(out_, latents_.n_heads * latents_.rank);
        group_ = static_cast<size_t>(workspace.read_layer(layer_, latents_));
        of_compressed_ = static_cast<size_t>(workspace.read_layer(compressed_, latents_));
    }

    void check(const Step& step) const override {
        expect_seen(step, group_, mask_);
        if (step.groups[of_compressed_].every != ratio_) throw std::out_of_range("entries stand for another number of positions");
    }

    void run(const Context& c, int thread) override {
        attend_by_plan(c, thread, plan_, [&](const AttendPlan::Task& task) { return job_of(c, task); },
            [&](const Job& job, int chunk, Partial* partials, float* sums) {
                const int entry_chunk = chunk - job.first_of_mask + job.entry_chunks;
                if (chunk < job.first_of_mask) attend_latents(job.compressed, latents_, entry_chunk, partials, sums);
                else attend_latents(job, latents_, chunk, partials, sums);
            });
    }

private:
    /// What it is of the window, and of the compressed rows before it.
    struct Job : AttendJob {
        AttendJob compressed;
        int first_of_mask, entry_chunks;
    };

    Job job_of(const Context& c, const AttendPlan::Task& task) const {
        Job job{job_for(task, latents_.heads(), mask_, c, layer_, group_), {}, task.first_of_mask, task.entry_chunks};
        job.sinks = sinks_.data;
        job.q = c.row(q_, task.first_row);
        job.out = c.row(out_, task.first_row);
        job.compressed = job_for(task, latents_.heads(), {Mask::Kind::full, 0}, c, compressed_, of_compressed_);
        job.compressed.q = job.q;
        job.compressed.first_position = (job.first_position + 1) / ratio_ - 1;
        if (selected_) see_chosen(job.compressed, *selected_, task.first_row, 0);
        return job;
    }

    int layer_, compressed_;
    LatentShape latents_;
    int q_, out_;
    Mask mask_;
    int ratio_;
    Choice choice_;
    Vector sinks_;
    Selected* selected_;
    AttendPlan& plan_;
    size_t group_ = 0, of_compressed_ = 0;
};

LANDRACE_OPERATION(attend_compressed, AttendCompressed)

}  // namespace LANDRACE_ISA
}  // namespace landrace
