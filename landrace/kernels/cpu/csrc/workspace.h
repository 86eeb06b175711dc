// What the operations of a program share: buffers of rows, the cache, and state that they keep beside both.
#pragma once

#include <memory>
#include <utility>
#include <variant>
#include <vector>

#include "step.h"
#include "types.h"

namespace landrace {

/// The buffer of a step's logits.
constexpr int kLogits = -1;

/// What operations keep within a step beside the buffers: a plan, rows prepared for a product, a table of routes. One
/// operation may write it and others read it.
class State {
public:
    virtual ~State();
    /// Makes room for steps of `n_rows` rows (whole panels) on `threads` threads.
    virtual void reserve(int n_rows, int threads);
    /// Called before every step, by one thread.
    virtual void prepare(const Step& step, int threads);
};

class Workspace {
public:
    Workspace() = default;
    Workspace(const Workspace&) = delete;
    Workspace& operator=(const Workspace&) = delete;

    /// A buffer of `width` floats a row. Returns its number.
    int add_buffer(int width);
    float* rows(int buffer) { return buffers_[static_cast<size_t>(buffer)].data(); }
    int64_t width(int buffer) const { return widths_[static_cast<size_t>(buffer)]; }
    /// Throws std::invalid_argument where there is no such buffer.
    int checked_width(int buffer) const;
    /// Throws std::invalid_argument unless there is such a buffer, and its rows have `width` values.
    void expect(int buffer, int width) const;

    /// Logits are stored once, by one operation; 0: by none. Throws std::invalid_argument for a second.
    void store_logits(int vocabulary);
    int vocabulary() const { return vocabulary_; }

    /// The state of type T for which `serves(key...)` holds; made as T(key...) when there is none yet.
    template <class T, class... Key> T& state(const Key&... key) {
        for (const auto& state : states_)
            if (T* known = dynamic_cast<T*>(state.get()); known && known->serves(key...)) return *known;
        auto made = std::make_unique<T>(key...);
        T& state = *made;
        states_.push_back(std::move(made));
        return state;
    }

    /// Says that keys and values of a layer of a cache group are written; layers are numbered in order. Throws
    /// std::invalid_argument.
    void write_layer(int layer, const HeadShape& shape, int group);
    /// Says that they are read. Returns the layer's group. Throws std::invalid_argument unless such heads are written.
    int read_layer(int layer, const HeadShape& shape) const;
    /// The same for latents, for an indexer's keys and for what rows are compressed from.
    void write_layer(int layer, const LatentShape& shape, int group);
    void write_layer(int layer, const IndexShape& shape, int group);
    void write_layer(int layer, const InputShape& shape, int group);
    int read_layer(int layer, const LatentShape& shape) const;
    int read_layer(int layer, const IndexShape& shape) const;
    int read_layer(int layer, const InputShape& shape) const;
    void bind_cache(int layer, LayerCache cache, int64_t n_slots);
    const LayerCache& cache(int layer) const { return caches_[static_cast<size_t>(layer)]; }

    /// Says that `size` floats are kept of every sequence from step to step, and behind them `guess_size` of every guess.
    /// Returns the number of that part of its state.
    int keep_state(int64_t size, int64_t guess_size);
    /// By part: both sizes.
    const std::vector<std::pair<int64_t, int64_t>>& state_sizes() const { return state_sizes_; }
    /// `n_guesses`: how many there is room for, the same for all parts.
    void bind_state(int part, float* states, int64_t n_states, int64_t n_guesses);
    float* state(int part, int64_t slot) const {
        const auto [size, guess_size] = state_sizes_[static_cast<size_t>(part)];
        return states_of_[static_cast<size_t>(part)] + slot * (size + n_guesses_ * guess_size);
    }

    /// How much operations have declared so far.
    struct Mark {
        size_t states, layers, groups, parts;
        int vocabulary;
    };
    Mark mark() const { return {states_.size(), layers_.size(), n_slots_.size(), state_sizes_.size(), vocabulary_}; }
    /// Takes back what was declared since: by an operation that was refused.
    void take_back(const Mark& mark);

    /// Makes room for `n_rows` rows in every buffer; what is in them stays.
    void reserve(int n_rows, int threads);
    /// Throws std::out_of_range for a row, slot, state or angle that does not exist, or when no cache is bound.
    void check(const Step& step) const;
    /// Makes room for a step that was checked.
    void prepare(const Step& step, int threads);

private:
    std::vector<int> widths_;
    std::vector<std::vector<float>> buffers_;
    std::vector<std::unique_ptr<State>> states_;
    using CacheShape = std::variant<HeadShape, LatentShape, IndexShape, InputShape>;
    struct Layer {
        CacheShape shape;
        int group;
    };
    void write(int layer, const CacheShape& shape, int group);
    int read(int layer, const CacheShape& shape) const;

    std::vector<Layer> layers_;
    std::vector<LayerCache> caches_;
    std::vector<int64_t> n_slots_;  // by cache group
    std::vector<std::pair<int64_t, int64_t>> state_sizes_;
    std::vector<float*> states_of_;  // by part
    int64_t n_states_ = 0, n_guesses_ = 0;
    int vocabulary_ = 0;
    int capacity_ = 0;
};

}  // namespace landrace
