// What mixtures of experts keep of their rows, one after another in the same memory.
#pragma once

#include "prepared_rows.inl"
#include "routing.h"

namespace landrace {
namespace LANDRACE_ISA {

/// Which rows use which adapter.
class AdapterUsers final : public State {
public:
    bool serves() const { return true; }
    void prepare(const Step& step, int) override {
        users_.resize(step.adapter_rows.size());
        for (size_t slot = 0; slot < users_.size(); ++slot) {
            users_[slot].assign(static_cast<size_t>(step.n_rows), 0);
            for (const int32_t row : step.adapter_rows[slot]) users_[slot][static_cast<size_t>(row)] = 1;
        }
    }
    bool uses(int slot, int row) const { return static_cast<size_t>(slot) < users_.size() && users_[static_cast<size_t>(slot)][static_cast<size_t>(row)]; }

private:
    std::vector<std::vector<uint8_t>> users_;
};

/// Rows by their places: hidden values, and what lies between the two halves of adapters.
class ExpertRows final : public State {
public:
    /// An adapter's narrow rows.
    struct Low {
        int rank = 0;
        Forms forms;
        std::vector<float> values;
        Prepared prepared;
    };

    bool serves() const { return true; }
    void widen(const Routing& routing, int n_in, int n_hidden, int n_out, const Forms& forms, const Forms& hidden_forms) {
        top_k_ = std::max(top_k_, routing.top_k());
        n_experts_ = std::max(n_experts_, routing.n_experts());
        n_in_ = std::max(n_in_, n_in);
        n_hidden_ = std::max(n_hidden_, n_hidden);
        n_out_ = std::max(n_out_, n_out);
        forms_.add(forms);
        hidden_forms_.add(hidden_forms);
    }
    /// Of adapter `index` of an operation.
    void widen_low(size_t index, int rank, const Forms& forms) {
        if (lows_.size() <= index) lows_.resize(index + 1);
        lows_[index].rank = std::max(lows_[index].rank, rank);
        lows_[index].forms.add(forms);
    }
    void reserve(int n_rows, int threads) override {
        const auto n_places = static_cast<size_t>(Routing::max_places(n_rows, n_experts_, top_k_)), width = static_cast<size_t>(n_hidden_);
        if (hidden_.size() < n_places * width) hidden_.resize(n_places * width);
        prepared_.reserve(n_places, width, hidden_forms_);
        if (static_cast<int>(gathered_.size()) < threads) gathered_.resize(static_cast<size_t>(threads));
        for (Prepared& own : gathered_) own.reserve(kRowsPerTask, static_cast<size_t>(n_in_), forms_);
        sums_.resize(std::max(sums_.size(), static_cast<size_t>(threads)));
        const auto n_sums = static_cast<size_t>(n_rows) * static_cast<size_t>(kTile * pieces_together(threads, ceil_div(n_out_, kTile)));
        for (auto& own : sums_) own.resize(std::max(own.size(), n_sums));
        if (!lows_.empty() && ups_.size() < n_places * width) ups_.resize(n_places * width);
        for (Low& low : lows_) {
            const auto rank = static_cast<size_t>(low.rank);
            if (low.values.size() < n_places * rank) low.values.resize(n_places * rank);
            low.prepared.reserve(n_places, rank, low.forms);
        }
    }

    float* sums(int thread) { return sums_[static_cast<size_t>(thread)].data(); }
    float* hidden() { return hidden_.data(); }
    /// Where gate and up are apart, as adapters need them.
    float* ups() { return ups_.data(); }
    Prepared& prepared() { return prepared_; }
    Prepared& gathered(int thread) { return gathered_[static_cast<size_t>(thread)]; }
    Low& low(size_t index) { return lows_[index]; }

private:
    int top_k_ = 0, n_experts_ = 0, n_in_ = 0, n_hidden_ = 0, n_out_ = 0;
    Forms forms_, hidden_forms_;
    std::vector<std::vector<float>> sums_;
    std::vector<float> hidden_, ups_;
    Prepared prepared_;
    std::vector<Prepared> gathered_;
    std::vector<Low> lows_;
};

}  // namespace LANDRACE_ISA
}  // namespace landrace
