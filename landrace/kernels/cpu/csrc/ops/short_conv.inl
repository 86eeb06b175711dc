// Short causal convolutions of each channel, and silu of them, in place. The rows before a step's are kept from step to step.
//
// A lane is a channel: its sum runs from the oldest row to its own, wherever a step begins. With a dilation of d a tap meets
// every d-th row, and rows between have taps of zero.
#pragma once

#include <algorithm>
#include <stdexcept>

#include "activations.inl"
#include "operation.h"

namespace landrace {
namespace LANDRACE_ISA {

class ShortConv final : public Operation {
public:
    static constexpr Field kPart[] = {buffer_field("x"), vector_field("weight")};
    static constexpr Field kSchema[] = {records_field("parts", kPart), integer_field("width"), optional(integer_field("dilation"))};

    ShortConv(const Fields& fields, Workspace& workspace) {
        const int64_t width = fields.integer("width"), dilation = std::max<int64_t>(1, fields.integer("dilation"));
        if (width < 1 || width > kMaxBefore + 1 || dilation > kMaxBefore || (width - 1) * dilation > kMaxBefore)
            throw std::invalid_argument("a convolution sees 1 to " + std::to_string(kMaxBefore + 1) + " rows");
        before_ = static_cast<int>((width - 1) * dilation);
        for (const Fields& record : fields.records("parts")) {
            const int x = record.buffer("x"), channels = workspace.checked_width(x);
            const Vector weight = record.vector("weight");
            if (weight.size != channels * width) throw std::invalid_argument("a convolution has a tap for each channel and row");
            std::vector<float> taps(static_cast<size_t>(channels) * static_cast<size_t>(before_ + 1));  // [rows, channels]
            for (int channel = 0; channel < channels; ++channel)
                for (int64_t j = 0; j < width; ++j) taps[static_cast<size_t>(j * dilation * channels + channel)] = weight.data[channel * width + j];
            parts_.push_back({x, channels, std::move(taps), workspace.keep_state(int64_t{before_} * channels)});
            n_pieces_ += ceil_div(channels, kPiece);
        }
    }

    void run(const Context& c, int thread) override {
        c.share(thread, n_pieces_ * c.step.n_sequences, [&](int piece) {
            const int s = piece / n_pieces_;
            if (c.step.starts[s] == c.step.starts[s + 1]) return;
            auto part = parts_.begin();
            for (piece %= n_pieces_; piece >= ceil_div(part->channels, kPiece); ++part) piece -= ceil_div(part->channels, kPiece);
            const int begin = piece * kPiece, end = std::min(part->channels, begin + kPiece);
            for (int channel = begin; channel < end; channel += kLanes) convolve(c, *part, s, channel, std::min(kLanes, end - channel));
        });
    }

private:
    static constexpr int kMaxBefore = 15;
    static constexpr int kPiece = 16 * kLanes;  // channels
    static constexpr int kRowsAhead = 8;        // rows are far apart: memory is asked for so many before it is needed

    struct Part {
        int x, channels;
        std::vector<float> taps;
        int state;
    };

    /// `n` channels of a sequence, from `channel` on.
    void convolve(const Context& c, const Part& part, int s, int channel, int n) const {
        Floats past[kMaxBefore], taps[kMaxBefore + 1];
        const float* found = c.workspace.state(part.state, c.step.states[2 * s]) + channel;
        float* left = c.workspace.state(part.state, c.step.states[2 * s + 1]) + channel;
        const bool begins = c.step.begins(s);
        for (int j = 0; j < before_; ++j) past[j] = begins ? all(0.0f) : load_some(found + int64_t{j} * part.channels, n);
        for (int j = 0; j <= before_; ++j) taps[j] = load_some(part.taps.data() + int64_t{j} * part.channels + channel, n);
        for (int64_t row = c.step.starts[s]; row < c.step.starts[s + 1]; ++row) {
            float* x = c.row(part.x, row) + channel;
            prefetch(x + kRowsAhead * c.workspace.width(part.x));
            const Floats now = load_some(x, n);
            Floats total = mul(taps[0], before_ ? past[0] : now);
            for (int j = 1; j <= before_; ++j) total = fma(taps[j], j < before_ ? past[j] : now, total);
            for (int j = 1; j < before_; ++j) past[j - 1] = past[j];
            if (before_) past[before_ - 1] = now;
            store_some(x, swish(total, total), n);
        }
        for (int j = 0; j < before_; ++j) store_some(left + int64_t{j} * part.channels, past[j], n);
    }

    int before_ = 0;
    std::vector<Part> parts_;
    int n_pieces_ = 0;
};

LANDRACE_OPERATION(short_conv, ShortConv)

}  // namespace LANDRACE_ISA
}  // namespace landrace
