#include "program.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <stdexcept>

namespace landrace {

namespace {

/// Pieces a thread should find, so that one that is late or slow costs little.
constexpr int kPiecesPerThread = 6;

}  // namespace

struct Program::Context {
    const Step& step;
    int threads;
};

int Program::add_buffer(int width) {
    widths_.push_back(width);
    buffers_.emplace_back();
    capacity_ = 0;
    return static_cast<int>(widths_.size()) - 1;
}

int Program::count_rows(const Step& step, int rows) const {
    if (rows == kAllRows) return step.n_rows;
    if (rows == kLogitRows) return step.n_logit_rows;
    return rows < static_cast<int>(step.adapter_rows.size()) ? static_cast<int>(step.adapter_rows[rows].size()) : 0;
}

void Program::add_embedding(const Matrix& table, float factor, int out) {
    vocabulary_ = table.n_out;
    operations_.push_back({"embedding", [=](Context& c, int thread) {
        const int width = widths_[out];
        for (int row; (row = pool_.claim(thread, c.step.n_rows)) < c.step.n_rows;)
            kernels_.unpack_row(table, static_cast<int>(c.step.token_ids[row]), factor, rows(out) + static_cast<int64_t>(row) * width);
        pool_.barrier();
    }});
}

void Program::add_norm(int in, const float* weight, float eps, bool add, float factor, int out) {
    operations_.push_back({"norm", [=](Context& c, int thread) {
        const int64_t width = widths_[in];
        for (int row; (row = pool_.claim(thread, c.step.n_rows)) < c.step.n_rows;) {
            const float* x = rows(in) + row * width;
            float* y = rows(out) + row * width;
            if (add) {
                kernels_.rms_norm(x, weight, eps, static_cast<int>(width), private_[thread].row.data());
                kernels_.axpy(private_[thread].row.data(), factor, static_cast<int>(width), y);
            } else {
                kernels_.rms_norm(x, weight, eps, static_cast<int>(width), y);
            }
        }
        pool_.barrier();
    }});
}

void Program::add_swiglu(int gate, int up, int out) {
    operations_.push_back({"swiglu", [=](Context& c, int thread) {
        const int64_t width = widths_[out];
        for (int row; (row = pool_.claim(thread, c.step.n_rows)) < c.step.n_rows;)
            kernels_.swiglu(rows(gate) + row * width, rows(up) + row * width, width, rows(out) + row * width);
        pool_.barrier();
    }});
}

void Program::add_product(
    std::string name, int in, const float* norm, float eps, int rows_of_step, bool gather, bool scatter, std::vector<ProductPart> parts
) {
    const int n_in = parts[0].matrix.n_in;
    bool needs_groups = false, needs_floats = false, needs_pairs = false;
    const auto look_at = [&](Kind kind) { (is_quantised(kind) ? needs_groups : kind == Kind::bf16 ? needs_pairs : needs_floats) = true; };
    int n_tiles = 0;
    for (const ProductPart& part : parts) {
        look_at(part.matrix.kind);
        if (part.is_gated) look_at(part.gated.kind);
        n_tiles += part.matrix.n_tiles();
    }
    const int n_groups = ceil_div(n_in, kGroup);
    widest_input_ = std::max(widest_input_, n_in);
    capacity_ = 0;
    operations_.push_back({std::move(name), [=](Context& c, int thread) {
        const int n_rows = count_rows(c.step, rows_of_step);
        if (n_rows == 0) return;
        Private& own = private_[thread];
        // A single row is prepared by every thread for itself: that is quicker than waiting for another to do it.
        const bool shared = n_rows > 1 && c.threads > 1;
        Prepared& prepared = shared ? shared_ : own.prepared;
        const auto prepare_row = [&](int row) {
            int64_t from = row;
            if (gather && rows_of_step == kLogitRows) from = c.step.logit_rows[row];
            else if (gather && rows_of_step >= 0) from = c.step.adapter_rows[rows_of_step][row];
            const float* x = rows(in) + from * widths_[in];
            if (norm) {
                kernels_.rms_norm(x, norm, eps, n_in, own.row.data());
                x = own.row.data();
            }
            if (needs_groups) {
                uint8_t* with_remainder = prepared.with_remainder.data() + static_cast<int64_t>(row / kPanel) * n_groups;
                if (row % kPanel == 0) std::memset(with_remainder, 0, static_cast<size_t>(n_groups));
                const int64_t at = static_cast<int64_t>(row / kPanel) * n_groups * kPanel + row % kPanel;
                kernels_.quantise(x, n_in, row % kPanel, prepared.groups.data() + at, prepared.remainders.data() + at, with_remainder);
            }
            if (needs_pairs)
                kernels_.pair_up(x, n_in, prepared.pairs.data() + static_cast<int64_t>(row / kPanel) * ceil_div(n_in, 2) * kPanel + row % kPanel);
            if (needs_floats) {
                float* panel = prepared.floats.data() + static_cast<int64_t>(row / kPanel) * n_in * kPanel + row % kPanel;
                for (int k = 0; k < n_in; ++k) panel[static_cast<int64_t>(k) * kPanel] = x[k];
            }
        };
        if (shared) {
            const int n_panels = ceil_div(n_rows, kPanel);
            for (int panel; (panel = pool_.claim(thread, n_panels)) < n_panels;)
                for (int row = panel * kPanel; row < std::min(n_rows, (panel + 1) * kPanel); ++row) prepare_row(row);
            pool_.barrier();
        } else {
            for (int row = 0; row < n_rows; ++row) prepare_row(row);
        }
        const Rows input{prepared.floats.data(), prepared.pairs.data(), prepared.groups.data(), prepared.remainders.data(), prepared.with_remainder.data(), n_in};
        const int n_blocks = ceil_div(n_rows, kRowsPerTask);
        const int together = std::max(1, n_tiles / (c.threads * kPiecesPerThread));
        const int n_pieces = ceil_div(n_tiles, together) * n_blocks;
        for (int piece; (piece = pool_.claim(thread, n_pieces)) < n_pieces;) {
            const int first = piece % n_blocks * kRowsPerTask;
            const int now = std::min(kRowsPerTask, n_rows - first);
            int begin = piece / n_blocks * together;
            const int end = std::min(n_tiles, begin + together);
            int passed = 0;
            for (const ProductPart& part : parts) {
                const int tiles = part.matrix.n_tiles();
                const int from = std::max(begin - passed, 0), until = std::min(end - passed, tiles);
                passed += tiles;
                if (from >= until) continue;
                Product job{};
                job.matrix = &part.matrix;
                job.gated = part.is_gated ? &part.gated : nullptr;
                job.bias = part.bias;
                job.gated_bias = part.gated_bias;
                job.epilogue = part.epilogue;
                job.factor = part.factor;
                job.out = part.out < 0 ? c.step.logits : rows(part.out);
                job.out_stride = part.out < 0 ? part.matrix.n_out : widths_[part.out];
                job.out_rows = scatter ? c.step.adapter_rows[rows_of_step].data() : nullptr;
                kernels_.product(job, input, first, now, from, until);
            }
        }
        pool_.barrier();
    }});
}

void Program::add_rope(int layer, int rotary, RopeJob job, int q, int k, int v) {
    n_layers_ = std::max(n_layers_, layer + 1);
    operations_.push_back({"rope", [=](Context& c, int thread) {
        RopeJob now = job;
        if (now.rotary_half) {
            now.cos = c.step.rotary[rotary].cos;
            now.sin = c.step.rotary[rotary].sin;
            now.table_rows = c.step.rotary[rotary].rows;
        }
        now.q = rows(q);
        now.k = rows(k);
        now.v = rows(v);
        now.write_slots = c.step.write_slots;
        now.cache = caches_[layer];
        for (int row; (row = pool_.claim(thread, c.step.n_rows)) < c.step.n_rows;) kernels_.rope(now, row, row + 1);
        pool_.barrier();
    }});
}

int Program::attention_plan(HeadShape shape) {
    for (size_t i = 0; i < plans_.size(); ++i)
        if (std::memcmp(&plans_[i].shape, &shape, sizeof(shape)) == 0) return static_cast<int>(i);
    plans_.push_back({shape, {}, {}});
    return static_cast<int>(plans_.size()) - 1;
}

void Program::add_attention(int layer, HeadShape shape, int window, int q, int out) {
    const int plan_index = attention_plan(shape);
    operations_.push_back({"attention", [=](Context& c, int thread) {
        const AttendPlan& plan = plans_[plan_index];
        const auto job_of = [&](const AttendTask& task) {
            AttendJob job{};
            job.shape = shape;
            job.cache = caches_[layer];
            job.slots = c.step.slots[task.sequence];
            job.window = window;
            job.first_head = task.first_head;
            job.n_heads = task.n_heads;
            job.n_rows = task.n_rows;
            job.first_position = c.step.positions[task.first_row];
            job.q = rows(q) + static_cast<int64_t>(task.first_row) * widths_[q];
            job.out = rows(out) + static_cast<int64_t>(task.first_row) * widths_[out];
            return job;
        };
        const int n_tasks = static_cast<int>(plan.tasks.size()), n_merges = static_cast<int>(plan.merges.size());
        Partial own[kRowsAttending], part[kRowsAttending];
        alignas(64) float own_sums[kRowsAttending * kMaxHeadDim], part_sums[kRowsAttending * kMaxHeadDim];
        const int64_t stride = static_cast<int64_t>(kRowsAttending) * shape.padded_dim;
        for (int index; (index = pool_.claim(thread, n_tasks)) < n_tasks;) {
            const AttendTask& task = plan.tasks[index];
            const AttendJob job = job_of(task);
            if (task.partial >= 0) {
                kernels_.attend(job, task.first_chunk, &partials_[static_cast<size_t>(task.partial) * kRowsAttending], &partial_sums_[task.partial * stride]);
                continue;
            }
            kernels_.attend(job, task.first_chunk, own, own_sums);
            for (int chunk = task.first_chunk + 1; chunk < task.end_chunk; ++chunk) {
                kernels_.attend(job, chunk, part, part_sums);
                kernels_.merge(own, own_sums, part, part_sums, task.n_rows * task.n_heads, shape.padded_dim);
            }
            kernels_.finish(job, own, own_sums);
        }
        pool_.barrier();
        if (plan.merges.empty()) return;
        for (int index; (index = pool_.claim(thread, n_merges)) < n_merges;) {
            const AttendTask& task = plan.merges[index];
            Partial* into = &partials_[static_cast<size_t>(task.partial) * kRowsAttending];
            float* sums = &partial_sums_[task.partial * stride];
            for (int i = 1; i < task.end_chunk - task.first_chunk; ++i)
                kernels_.merge(into, sums, into + i * kRowsAttending, sums + i * stride, task.n_rows * task.n_heads, shape.padded_dim);
            kernels_.finish(job_of(task), into, sums);
        }
        pool_.barrier();
    }});
}

void Program::bind_cache(int layer, LayerCache cache, int64_t n_slots) {
    n_slots_ = n_slots;
    if (static_cast<int>(caches_.size()) <= layer) caches_.resize(layer + 1);
    caches_[layer] = cache;
}

void Program::plan_attention(const Step& step, AttendPlan& plan, int threads) {
    plan.tasks.clear();
    plan.merges.clear();
    const HeadShape& shape = plan.shape;
    const int group = shape.n_heads / shape.n_kv_heads;
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
            for (int kv = 0; kv < shape.n_kv_heads; ++kv)
                for (int h = 0; h < group; h += heads_together)
                    plan.tasks.push_back({s, first, n_rows, kv * group + h, std::min(heads_together, group - h), 0, n_chunks, -1});
        }
    }
    if (threads == 1 || static_cast<int>(plan.tasks.size()) >= 4 * threads) return;
    // Few tasks: their chunks are computed side by side and merged afterwards, in the same order.
    std::vector<AttendTask> whole;
    std::swap(whole, plan.tasks);
    int n_partials = 0;
    for (AttendTask& task : whole) {
        if (task.end_chunk == 1) {
            plan.tasks.push_back(task);
            continue;
        }
        task.partial = n_partials;
        plan.merges.push_back(task);
        for (int chunk = 0; chunk < task.end_chunk; ++chunk) {
            AttendTask part = task;
            part.first_chunk = chunk;
            part.end_chunk = chunk + 1;
            part.partial = n_partials++;
            plan.tasks.push_back(part);
        }
    }
    if (partials_.size() < static_cast<size_t>(n_partials) * kRowsAttending) partials_.resize(static_cast<size_t>(n_partials) * kRowsAttending);
    const size_t sums = static_cast<size_t>(n_partials) * kRowsAttending * static_cast<size_t>(shape.padded_dim);
    if (partial_sums_.size() < sums) partial_sums_.resize(sums);
}

void Program::Prepared::reserve(size_t n_rows, size_t n_in) {
    const size_t n_groups = n_rows * ((n_in + kGroup - 1) / kGroup);
    if (floats.size() < n_rows * n_in) floats.resize(n_rows * n_in);
    if (pairs.size() < n_rows * ((n_in + 1) / 2)) pairs.resize(n_rows * ((n_in + 1) / 2));
    if (groups.size() >= n_groups) return;
    groups.resize(n_groups);
    remainders.resize(n_groups);
    with_remainder.resize(n_groups);
}

void Program::reserve(int at_least, int threads) {
    const int n_rows = ceil_div(std::max(at_least, 1), kPanel) * kPanel;
    if (n_rows > capacity_) {
        for (size_t i = 0; i < widths_.size(); ++i) buffers_[i].resize(static_cast<size_t>(n_rows) * static_cast<size_t>(widths_[i]));
        shared_.reserve(static_cast<size_t>(n_rows), static_cast<size_t>(widest_input_));
        capacity_ = n_rows;
    }
    // With one thread every row is prepared by it alone; with more, only single rows are.
    const size_t own_rows = threads == 1 ? static_cast<size_t>(n_rows) : kPanel;
    if (static_cast<int>(private_.size()) < pool_.size()) private_.resize(static_cast<size_t>(pool_.size()));
    for (Private& own : private_) {
        own.prepared.reserve(own_rows, static_cast<size_t>(widest_input_));
        for (const int width : widths_) own.row.resize(std::max(own.row.size(), static_cast<size_t>(width)));
    }
}

void Program::check(const Step& step) const {
    const auto within = [](int64_t value, int64_t end, const char* what) {
        if (value < 0 || value >= end) throw std::out_of_range(std::string(what) + " " + std::to_string(value) + " is not one of " + std::to_string(end));
    };
    if (static_cast<int>(caches_.size()) < n_layers_) throw std::out_of_range("no cache is bound");
    for (int i = 0; i < step.n_rows; ++i)
        if (vocabulary_) within(step.token_ids[i], vocabulary_, "token");
    for (const RotaryTable& table : step.rotary)
        for (int i = 0; i < step.n_rows; ++i) within(table.rows[i], table.n_table_rows, "row of the angles");
    for (int i = 0; i < step.n_logit_rows; ++i) within(step.logit_rows[i], step.n_rows, "row");
    for (const auto& rows : step.adapter_rows) {
        if (rows.size() > static_cast<size_t>(step.n_rows)) throw std::out_of_range("an adapter has more rows than the step");
        for (const int32_t row : rows) within(row, step.n_rows, "row");
    }
    for (int s = 0; s < step.n_sequences && n_layers_; ++s) {
        const int64_t begin = step.starts[s], end = step.starts[s + 1];
        if (begin > end || end > step.n_rows) throw std::out_of_range("sequences do not lie in the step's rows");
        if (begin == end) continue;
        const int64_t last = step.positions[end - 1];
        within(last, step.slot_counts[s], "position");
        const int64_t* slots = step.slots[s];
        for (int64_t position = 0; position <= last; ++position) {
            const int64_t inner = position % kTile;
            within(slots[position], n_slots_, "cache slot");
            if (slots[position] != slots[position - inner] + inner || slots[position - inner] % kTile)
                throw std::out_of_range("cache blocks are not whole tiles of sixteen");
        }
        for (int64_t i = begin; i < end; ++i) {
            const int64_t position = last - (end - 1 - i);
            if (position < 0 || step.positions[i] != position) throw std::out_of_range("positions do not follow one another");
            if (step.write_slots[i] != slots[position]) throw std::out_of_range("a row is written to another position's slot");
        }
    }
}

void Program::prepare(const Step& step, int threads) {
    check(step);
    if (threads < 1 || threads > pool_.size()) throw std::out_of_range("the pool does not have that many threads");
    reserve(std::max(step.n_rows, step.n_logit_rows), threads);
    for (AttendPlan& plan : plans_) plan_attention(step, plan, threads);
}

void Program::run(const Step& step, int threads) {
    const bool choose = threads == 0 && step.n_rows > 0;
    const int chosen = choose ? choice_.pick(step.n_rows) : threads == 0 ? 1 : threads;
    const auto start = std::chrono::steady_clock::now();
    prepare(step, chosen);
    Context context{step, chosen};
    pool_.run(chosen, [&](int thread) {
        for (const Operation& operation : operations_) operation.run(context, thread);
    });
    if (choose) choice_.report(step.n_rows, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
}

std::vector<Timing> Program::profile(const Step& step, int threads) {
    prepare(step, threads);
    Context context{step, threads};
    std::vector<Timing> timings;
    for (const Operation& operation : operations_) {
        const auto start = std::chrono::steady_clock::now();
        pool_.run(threads, [&](int thread) { operation.run(context, thread); });
        timings.push_back({operation.name, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count()});
    }
    return timings;
}

}  // namespace landrace
