// A forward pass as a list of operations over buffers: recorded once, replayed for every step by one call.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "thread_choice.h"
#include "thread_pool.h"
#include "types.h"

namespace landrace {

/// Which rows a product works on: all of the step's, those whose logits are wanted, or those of an adapter (its slot).
enum : int { kAllRows = -1, kLogitRows = -2 };

/// Angles of one kind of rotation: row i of the step uses row `rows[i]` of the tables.
struct RotaryTable {
    const float* cos;
    const float* sin;
    const int64_t* rows;
    int64_t n_table_rows;
};

/// One step's input. All addresses stay the caller's.
struct Step {
    int n_rows;
    const int64_t* token_ids;          // [n_rows]
    const int64_t* positions;          // [n_rows]
    int n_sequences;
    const int64_t* starts;             // [n_sequences + 1]
    const int64_t* const* slots;       // one array a sequence: the cache slots of its positions
    const int64_t* slot_counts;        // [n_sequences]: how many each array holds
    const int64_t* write_slots;        // [n_rows]
    const int64_t* logit_rows;         // [n_logit_rows]
    int n_logit_rows;
    std::vector<RotaryTable> rotary;
    std::vector<std::vector<int32_t>> adapter_rows;  // by slot; empty: nobody uses it
    float* logits;                     // [n_logit_rows, vocabulary]
};

struct ProductPart {
    Matrix matrix;
    bool is_gated;
    Matrix gated;
    const float* bias;
    const float* gated_bias;
    Epilogue epilogue;
    float factor;
    int out;  // buffer; -1: the step's logits
};

/// One operation's time in a replay.
struct Timing {
    std::string name;
    double seconds;
};

class Program {
public:
    Program(const Kernels& kernels, ThreadPool& pool) : kernels_(kernels), pool_(pool), choice_(pool.size()) {}

    /// A buffer of `width` floats a row. Returns its number.
    int add_buffer(int width);
    void add_embedding(const Matrix& table, float factor, int out);
    /// out = norm(in), or with `add` out += factor * norm(in).
    void add_norm(int in, const float* weight, float eps, bool add, float factor, int out);
    /// Rows of `in`, normalised first where `norm` is given, times every part's matrix. `rows` says how many and which:
    /// with `gather` they are taken from their places in `in`, with `scatter` put into their places in the output;
    /// otherwise they lie densely.
    void add_product(
        std::string name, int in, const float* norm, float eps, int rows, bool gather, bool scatter, std::vector<ProductPart> parts
    );
    void add_swiglu(int gate, int up, int out);
    void add_rope(int layer, int rotary, RopeJob job, int q, int k, int v);
    void add_attention(int layer, HeadShape shape, int window, int q, int out);
    /// Where the keys and values of a layer are. All layers are bound before the first step.
    void bind_cache(int layer, LayerCache cache, int64_t n_slots);

    /// Makes room for `n_rows` rows in every buffer; what is in them stays until more room is needed.
    void reserve(int n_rows, int threads);
    float* rows(int buffer) { return buffers_[buffer].data(); }
    int width(int buffer) const { return widths_[buffer]; }

    /// Computes a step with `threads` threads of the pool; 0: as many as were fastest lately.
    void run(const Step& step, int threads);
    /// The same, one operation after another, each timed.
    std::vector<Timing> profile(const Step& step, int threads);

private:
    struct Context;
    struct AttendTask {
        int sequence, first_row, n_rows, first_head, n_heads;
        int first_chunk, end_chunk;
        int partial;  // index of the first partial result; -1: the task does all chunks itself
    };
    struct AttendPlan {
        HeadShape shape;
        std::vector<AttendTask> tasks;
        std::vector<AttendTask> merges;
    };
    struct Operation {
        std::string name;
        std::function<void(Context&, int)> run;
    };

    /// Throws std::out_of_range for a token, row, slot or angle that does not exist, or when no cache is bound.
    void check(const Step& step) const;
    void prepare(const Step& step, int threads);
    void plan_attention(const Step& step, AttendPlan& plan, int threads);
    int attention_plan(HeadShape shape);
    int count_rows(const Step& step, int rows) const;

    const Kernels& kernels_;
    ThreadPool& pool_;
    ThreadChoice choice_;
    std::vector<Operation> operations_;
    std::vector<int> widths_;
    std::vector<std::vector<float>> buffers_;
    std::vector<LayerCache> caches_;
    int64_t n_slots_ = 0;
    int n_layers_ = 0;
    int vocabulary_ = 0;
    std::vector<AttendPlan> plans_;
    std::vector<Partial> partials_;
    std::vector<float> partial_sums_;
    int capacity_ = 0;
    int widest_input_ = 0;
    /// Prepared rows of a product's input: see `Rows`.
    struct Prepared {
        std::vector<float> floats;
        std::vector<uint32_t> pairs;
        std::vector<QuantisedGroup> groups;
        std::vector<Remainder> remainders;
        std::vector<uint8_t> with_remainder;

        void reserve(size_t n_rows, size_t n_in);
    };
    struct Private {
        Prepared prepared;
        std::vector<float> row;
    };
    Prepared shared_;
    std::vector<Private> private_;
};

}  // namespace landrace
