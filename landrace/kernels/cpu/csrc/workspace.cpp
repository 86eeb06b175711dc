#include "workspace.h"

#include <algorithm>
#include <stdexcept>
#include <string>

#include "product.h"

namespace landrace {

State::~State() = default;
void State::reserve(int, int) {}
void State::prepare(const Step&, int) {}

int Workspace::add_buffer(int width) {
    widths_.push_back(width);
    buffers_.emplace_back();
    capacity_ = 0;
    return static_cast<int>(widths_.size()) - 1;
}

int Workspace::checked_width(int buffer) const {
    if (buffer < 0 || buffer >= static_cast<int>(widths_.size())) throw std::invalid_argument("there is no buffer " + std::to_string(buffer));
    return widths_[static_cast<size_t>(buffer)];
}

void Workspace::expect(int buffer, int width) const {
    if (checked_width(buffer) != width)
        throw std::invalid_argument("buffer " + std::to_string(buffer) + " does not have rows of " + std::to_string(width) + " values");
}

void Workspace::store_logits(int vocabulary) {
    if (vocabulary_) throw std::invalid_argument("logits are stored once");
    vocabulary_ = vocabulary;
}

void Workspace::write_layer(int layer, const HeadShape& shape, int group) { write(layer, shape, group); }
void Workspace::write_layer(int layer, const LatentShape& shape, int group) { write(layer, shape, group); }
void Workspace::write_layer(int layer, const IndexShape& shape, int group) { write(layer, shape, group); }
void Workspace::write_layer(int layer, const InputShape& shape, int group) { write(layer, shape, group); }
int Workspace::read_layer(int layer, const HeadShape& shape) const { return read(layer, shape); }
int Workspace::read_layer(int layer, const LatentShape& shape) const { return read(layer, shape); }
int Workspace::read_layer(int layer, const IndexShape& shape) const { return read(layer, shape); }
int Workspace::read_layer(int layer, const InputShape& shape) const { return read(layer, shape); }

void Workspace::write(int layer, const CacheShape& shape, int group) {
    if (layer != static_cast<int>(layers_.size()))
        throw std::invalid_argument("layers are recorded in order: the next is " + std::to_string(layers_.size()) + ", not " + std::to_string(layer));
    if (group < 0 || group > static_cast<int>(n_slots_.size()))
        throw std::invalid_argument("cache groups are numbered in order: the next is " + std::to_string(n_slots_.size()) + ", not " + std::to_string(group));
    if (group == static_cast<int>(n_slots_.size())) n_slots_.push_back(0);
    layers_.push_back({shape, group});
}

int Workspace::read(int layer, const CacheShape& shape) const {
    if (layer < 0 || layer >= static_cast<int>(layers_.size()) || !(layers_[static_cast<size_t>(layer)].shape == shape))
        throw std::invalid_argument("no keys of these heads are written to layer " + std::to_string(layer));
    return layers_[static_cast<size_t>(layer)].group;
}

void Workspace::bind_cache(int layer, LayerCache cache, int64_t n_slots) {
    n_slots_[static_cast<size_t>(layers_[static_cast<size_t>(layer)].group)] = n_slots;
    if (static_cast<int>(caches_.size()) <= layer) caches_.resize(static_cast<size_t>(layer) + 1);
    caches_[static_cast<size_t>(layer)] = cache;
}

int Workspace::keep_state(int64_t size, int64_t guess_size) {
    state_sizes_.emplace_back(size, guess_size);
    return static_cast<int>(state_sizes_.size()) - 1;
}

void Workspace::bind_state(int part, float* states, int64_t n_states, int64_t n_guesses) {
    states_of_.resize(state_sizes_.size());
    states_of_[static_cast<size_t>(part)] = states;
    n_states_ = n_states;
    n_guesses_ = n_guesses;
}

void Workspace::take_back(const Mark& mark) {
    states_.resize(mark.states);
    layers_.erase(layers_.begin() + static_cast<std::ptrdiff_t>(mark.layers), layers_.end());
    n_slots_.resize(mark.groups);
    state_sizes_.resize(mark.parts);
    vocabulary_ = mark.vocabulary;
}

void Workspace::reserve(int at_least, int threads) {
    const int n_rows = ceil_div(std::max(at_least, 1), kPanel) * kPanel;
    if (n_rows > capacity_) {
        for (size_t i = 0; i < widths_.size(); ++i) {
            const size_t size = static_cast<size_t>(n_rows) * static_cast<size_t>(widths_[i]);
            if (buffers_[i].size() < size) buffers_[i].resize(size);
        }
        capacity_ = n_rows;
    }
    for (const auto& state : states_) state->reserve(n_rows, threads);
}

void Workspace::check(const Step& step) const {
    if (caches_.size() < layers_.size()) throw std::out_of_range("no cache is bound");
    if (states_of_.size() < state_sizes_.size()) throw std::out_of_range("no states are bound");
    check_rows(step);
    if (layers_.empty() && state_sizes_.empty()) return;
    if (step.groups.size() != n_slots_.size()) throw std::out_of_range("a step has other cache groups than the program");
    check_sequences(step);
    if (!state_sizes_.empty()) check_states(step, n_states_, n_guesses_);
    for (size_t group = 0; group < n_slots_.size(); ++group) check_slots(step, step.groups[group], n_slots_[group]);
}

void Workspace::prepare(const Step& step, int threads) {
    reserve(std::max(step.n_rows, step.n_logit_rows), threads);
    for (const auto& state : states_) state->prepare(step, threads);
}

}  // namespace landrace
