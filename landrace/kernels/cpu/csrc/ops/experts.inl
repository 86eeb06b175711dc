// A mixture of experts: out = or += factor * the sum over a row's experts of worth * down(activation(gate(x), up(x))).
//
// Rows are prepared once for all of their experts. A piece of the first half is a range of hidden values for rows of one
// expert. A piece of the second half is a range of outputs for all rows: it goes through the experts in the order of their
// numbers, so that a row's sum runs in that order whatever the rows beside it.
//
// Adapters add factor * B A x to a projection's result, for their own rows.
#pragma once

#include "expert_rows.inl"
#include "matrix_product.inl"

namespace landrace {
namespace LANDRACE_ISA {

class Experts final : public Operation {
    struct Projection {
        Matrix matrix;
        Vector bias;
    };
    struct Expert {
        Projection gate, up, down;
    };
    enum class Which : int { gate, up, down };
    static constexpr const char* kProjections[] = {"gate", "up", "down"};
    /// A low-rank change of one projection of every expert.
    struct Adapter {
        size_t index;
        Which projection;
        int slot;  // of the step's adapters, whose rows use it
        float factor;
        std::vector<Matrix> a, b;
        Forms b_forms;
    };

    static constexpr Field kExpertSchema[] = {
        matrix_field("gate"),
        matrix_field("up"),
        matrix_field("down"),
        optional(vector_field("gate_bias")),
        optional(vector_field("up_bias")),
        optional(vector_field("down_bias")),
    };
    static constexpr Field kPairSchema[] = {matrix_field("a"), matrix_field("b")};
    static constexpr Field kAdapterSchema[] = {
        choice_field("projection", kProjections),
        integer_field("slot"),
        number_field("factor"),
        records_field("experts", kPairSchema),
    };

public:
    static constexpr Field kSchema[] = {
        buffer_field("x"),
        buffer_field("logits"),
        integer_field("top_k"),
        records_field("experts", kExpertSchema),
        activation_field(),
        flag_field("weight_on_input"),
        buffer_field("out"),
        flag_field("add"),
        number_field("factor"),
        optional(records_field("adapters", kAdapterSchema)),
    };

    Experts(const Fields& fields, Workspace& workspace)
        : x_(fields.buffer("x")), n_in_(workspace.checked_width(x_)), out_(fields.buffer("out")), n_out_(workspace.checked_width(out_)),
          activation_(activation_of(fields)), weight_on_input_(fields.flag("weight_on_input")), add_(fields.flag("add")),
          factor_(fields.number("factor")),
          routing_(workspace.state<Routing>(fields.buffer("logits"), workspace.checked_width(fields.buffer("logits")), static_cast<int>(fields.integer("top_k")))),
          prepared_(workspace.state<PreparedRows>()), users_(workspace.state<AdapterUsers>()), rows_(workspace.state<ExpertRows>()) {
        for (const Fields& expert : fields.records("experts")) add_expert(expert);
        if (static_cast<int>(experts_.size()) != routing_.n_experts())
            throw std::invalid_argument("rows are routed to " + std::to_string(routing_.n_experts()) + " experts, not to " + std::to_string(experts_.size()));
        for (const Fields& adapter : fields.records("adapters")) add_adapter(adapter);
        all_forms_.add(forms_);
        prepared_.widen(n_in_, all_forms_);
        rows_.widen(routing_, n_in_, n_hidden_, n_out_, all_forms_, hidden_forms_);
        for (const Adapter& adapter : adapters_) rows_.widen_low(adapter.index, adapter.a[0].n_out, adapter.b_forms);
    }

    void run(const Context& c, int thread) override {
        if (c.step.n_rows == 0) return;
        const bool adapted = is_adapted(c.step);
        const Rows x = prepared_.prepare(c, thread, c.step.n_rows, n_in_, adapted ? all_forms_ : forms_, [&](int row) -> const float* { return c.row(x_, row); });
        if (adapted) lower_inputs(c, thread, x);
        hide(c, thread, x);
        prepare_hidden(c, thread);
        add_up(c, thread);
    }

private:
    static void expect(const Matrix& matrix, int n_out, int n_in, const char* what) {
        if (matrix.n_out != n_out || matrix.n_in != n_in)
            throw std::invalid_argument(std::string(what) + " matrix is not [" + std::to_string(n_out) + ", " + std::to_string(n_in) + "]");
    }

    void add_expert(const Fields& fields) {
        const auto projection = [&](const std::string& name) { return Projection{fields.matrix(name), fields.vector(name + "_bias")}; };
        const Expert expert{projection("gate"), projection("up"), projection("down")};
        if (experts_.empty()) n_hidden_ = expert.gate.matrix.n_out;
        expect(expert.gate.matrix, n_hidden_, n_in_, "an expert's gate");
        expect(expert.up.matrix, n_hidden_, n_in_, "an expert's up");
        expect(expert.down.matrix, n_out_, n_hidden_, "an expert's down");
        for (const Projection* own : {&expert.gate, &expert.up, &expert.down})
            if (own->bias.data && own->bias.size != own->matrix.n_out)
                throw std::invalid_argument("a bias of " + std::to_string(own->bias.size) + " does not fit " + std::to_string(own->matrix.n_out) + " outputs");
        forms_.add(expert.gate.matrix.kind);
        forms_.add(expert.up.matrix.kind);
        hidden_forms_.add(expert.down.matrix.kind);
        experts_.push_back(expert);
    }

    void add_adapter(const Fields& fields) {
        Adapter adapter{adapters_.size(), fields.choice<Which>("projection"), static_cast<int>(fields.integer("slot")), fields.number("factor"), {}, {}, {}};
        const bool is_down = adapter.projection == Which::down;
        const int n_in = is_down ? n_hidden_ : n_in_, n_out = is_down ? n_out_ : n_hidden_;
        if (adapter.slot < 0) throw std::invalid_argument("there are no adapters " + std::to_string(adapter.slot));
        for (const Fields& pair : fields.records("experts")) {
            adapter.a.push_back(pair.matrix("a"));
            adapter.b.push_back(pair.matrix("b"));
            const int rank = adapter.a[0].n_out;
            expect(adapter.a.back(), rank, n_in, "an adapter's first");
            expect(adapter.b.back(), n_out, rank, "an adapter's second");
            (is_down ? hidden_forms_ : all_forms_).add(adapter.a.back().kind);
            adapter.b_forms.add(adapter.b.back().kind);
        }
        if (adapter.a.size() != experts_.size()) throw std::invalid_argument("an adapter has not a pair for each expert");
        adapters_.push_back(std::move(adapter));
    }

    bool is_adapted(const Step& step) const {
        return std::any_of(adapters_.begin(), adapters_.end(), [&](const Adapter& adapter) { return step.count(adapter.slot) > 0; });
    }

    const Expert& expert(const Routing::Block& block) const { return experts_[static_cast<size_t>(block.expert)]; }

    /// Calls work(index, block) for the blocks that this thread finds.
    template <class F> void share_blocks(const Context& c, int thread, F work) {
        const auto& blocks = routing_.blocks();
        c.share(thread, static_cast<int>(blocks.size()), [&](int index) { work(blocks[static_cast<size_t>(index)]); });
    }

    /// A block's rows of x, one after another.
    Rows gathered(const Context& c, int thread, const Routing::Block& block, const Rows& x, const Forms& forms) {
        // A step's only row is the first of its panel as it is.
        if (c.step.n_rows == 1) return x;
        Prepared& own = rows_.gathered(thread);
        for (int i = 0; i < block.n_rows; ++i) own.copy(x, routing_.rows()[block.first_place + i], i, forms);
        return own.rows(n_in_);
    }

    /// A x for gates and ups.
    void lower_inputs(const Context& c, int thread, const Rows& x) {
        share_blocks(c, thread, [&](const Routing::Block& block) {
            Rows input{};
            for (const Adapter& adapter : adapters_) {
                if (adapter.projection == Which::down || !uses(adapter, block)) continue;
                if (!input.n_in) input = gathered(c, thread, block, x, all_forms_);
                lower(adapter, block, input);
            }
        });
    }

    /// Hidden values of every place.
    void hide(const Context& c, int thread, const Rows& x) {
        const auto& blocks = routing_.blocks();
        const int n_blocks = static_cast<int>(blocks.size()), n_tiles = ceil_div(n_hidden_, kTile);
        const int n_ranges = ceil_div(n_tiles, std::min(n_tiles, pieces_together(c.threads, n_blocks * n_tiles)));
        int last = -1;
        Rows input{};
        c.share(thread, n_blocks * n_ranges, [&](int piece) {
            const int index = piece / n_ranges, range = piece % n_ranges;
            const Routing::Block& block = blocks[static_cast<size_t>(index)];
            if (index != last) input = gathered(c, thread, block, x, forms_);
            last = index;
            hide(block, input, n_tiles * range / n_ranges, n_tiles * (range + 1) / n_ranges);
        });
    }

    /// Tiles [begin, end) of a block's hidden values.
    void hide(const Routing::Block& block, const Rows& input, int begin, int end) {
        const Projection &gate = expert(block).gate, &up = expert(block).up;
        const int64_t at = static_cast<int64_t>(block.first_place) * n_hidden_ + begin * kTile;
        const auto job_of = [&](const Projection& projection, const Matrix& matrix, float* out) {
            Product job{};
            job.matrix = &matrix;
            job.bias = projection.bias.data ? projection.bias.data + begin * kTile : nullptr;
            job.factor = 1.0f;
            job.input_factors = weight_on_input_ ? routing_.worth() + block.first_place : nullptr;
            job.out = out + at;
            job.out_stride = n_hidden_;
            return job;
        };
        const Matrix gates = gate.matrix.from_tile(begin), ups = up.matrix.from_tile(begin);
        Product job = job_of(gate, gates, rows_.hidden());
        const auto adapted = [&](const Adapter& adapter) { return adapter.projection != Which::down && uses(adapter, block); };
        if (std::none_of(adapters_.begin(), adapters_.end(), adapted)) {
            job.epilogue = Epilogue::gate;
            job.gated = &ups;
            job.gated_bias = up.bias.data ? up.bias.data + begin * kTile : nullptr;
            job.activation = activation_;
            return product(job, input, 0, block.n_rows, 0, end - begin);
        }
        // Adapters add to gate and up, so these are kept apart first.
        const Product other = job_of(up, ups, rows_.ups());
        product(job, input, 0, block.n_rows, 0, end - begin);
        product(other, input, 0, block.n_rows, 0, end - begin);
        for (const Adapter& adapter : adapters_)
            if (adapter.projection != Which::down) raise(adapter, block, adapter.projection == Which::gate ? job : other, begin, end);
        const int width = std::min(n_hidden_, end * kTile) - begin * kTile;
        for (int i = 0; i < block.n_rows; ++i) {
            float* hidden = job.out + i * job.out_stride;
            gate_row(hidden, other.out + i * other.out_stride, width, activation_, hidden);
        }
    }

    /// The hidden values in the forms of the second half, and A of them for downs.
    void prepare_hidden(const Context& c, int thread) {
        share_blocks(c, thread, [&](const Routing::Block& block) {
            for (int place = block.first_place; place < block.first_place + block.n_rows; ++place)
                rows_.prepared().put(rows_.hidden() + static_cast<int64_t>(place) * n_hidden_, n_hidden_, place, hidden_forms_);
            for (const Adapter& adapter : adapters_)
                if (adapter.projection == Which::down && uses(adapter, block)) lower(adapter, block, rows_.prepared().rows(n_hidden_, block.first_place));
        });
    }

    void add_up(const Context& c, int thread) {
        const int n_tiles = ceil_div(n_out_, kTile), together = pieces_together(c.threads, n_tiles);
        c.share(thread, ceil_div(n_tiles, together), [&](int piece) {
            const int begin = piece * together, end = std::min(n_tiles, begin + together);
            const int first = begin * kTile, width = std::min(n_out_, end * kTile) - first;
            // Rows are visited once for each of their experts. Side by side they stay in the cache.
            float* sums = rows_.sums(thread);
            for (int row = 0; row < c.step.n_rows; ++row) {
                float* own = sums + static_cast<int64_t>(row) * width;
                if (add_) std::copy_n(c.row(out_, row) + first, width, own);
                else std::fill_n(own, width, 0.0f);
            }
            for (const Routing::Block& block : routing_.blocks()) add_up(block, begin, end, sums, width);
            for (int row = 0; row < c.step.n_rows; ++row) std::copy_n(sums + static_cast<int64_t>(row) * width, width, c.row(out_, row) + first);
        });
    }

    /// Tiles [begin, end) of a block's results, added to the sums [n_rows, width] of these outputs.
    void add_up(const Routing::Block& block, int begin, int end, float* sums, int width) {
        const Projection& down = expert(block).down;
        const Matrix matrix = down.matrix.from_tile(begin);
        Product job{};
        job.matrix = &matrix;
        job.bias = down.bias.data ? down.bias.data + begin * kTile : nullptr;
        job.epilogue = Epilogue::add;
        job.factor = factor_;
        job.row_factors = weight_on_input_ ? nullptr : routing_.worth() + block.first_place;
        job.out = sums;
        job.out_stride = width;
        job.out_rows = routing_.rows() + block.first_place;
        product(job, rows_.prepared().rows(n_hidden_, block.first_place), 0, block.n_rows, 0, end - begin);
        for (const Adapter& adapter : adapters_)
            if (adapter.projection == Which::down) raise(adapter, block, job, begin, end);
    }

    /// Whether a row of the block uses the adapter.
    bool uses(const Adapter& adapter, const Routing::Block& block) const {
        const int32_t* rows = routing_.rows() + block.first_place;
        return std::any_of(rows, rows + block.n_rows, [&](int32_t row) { return users_.uses(adapter.slot, row); });
    }

    /// An adapter's narrow rows A x of a block, from its rows x.
    void lower(const Adapter& adapter, const Routing::Block& block, const Rows& x) {
        ExpertRows::Low& low = rows_.low(adapter.index);
        const Matrix& a = adapter.a[static_cast<size_t>(block.expert)];
        Product job{};
        job.matrix = &a;
        job.factor = 1.0f;
        job.out = low.values.data() + static_cast<int64_t>(block.first_place) * a.n_out;
        job.out_stride = a.n_out;
        product(job, x, 0, block.n_rows, 0, a.n_tiles());
        for (int i = 0; i < block.n_rows; ++i) low.prepared.put(job.out + static_cast<int64_t>(i) * a.n_out, a.n_out, block.first_place + i, adapter.b_forms);
    }

    /// Adds B A x for tiles [begin, end) of the block's rows that use the adapter to where `to`, the job of the projection
    /// itself, puts the first of these tiles.
    void raise(const Adapter& adapter, const Routing::Block& block, const Product& to, int begin, int end) {
        if (!uses(adapter, block)) return;
        int32_t targets[kRowsPerTask];
        for (int i = 0; i < block.n_rows; ++i)
            targets[i] = !users_.uses(adapter.slot, routing_.rows()[block.first_place + i]) ? -1 : to.out_rows ? to.out_rows[i] : i;
        const Matrix b = adapter.b[static_cast<size_t>(block.expert)].from_tile(begin);
        Product job = to;
        job.matrix = &b;
        job.bias = nullptr;
        job.epilogue = Epilogue::add;
        job.factor = to.factor * adapter.factor;
        job.out_rows = targets;
        product(job, rows_.low(adapter.index).prepared.rows(b.n_in, block.first_place), 0, block.n_rows, 0, end - begin);
    }

    int x_, n_in_, out_, n_out_;
    Activation activation_;
    bool weight_on_input_, add_;
    float factor_;
    std::vector<Expert> experts_;
    std::vector<Adapter> adapters_;
    int n_hidden_ = 0;
    Forms forms_, all_forms_, hidden_forms_;  // of x, without and with adapters, and of hidden values
    Routing& routing_;
    PreparedRows& prepared_;
    AdapterUsers& users_;
    ExpertRows& rows_;
};

LANDRACE_OPERATION(experts, Experts)

}  // namespace LANDRACE_ISA
}  // namespace landrace
