// Which blocks of positions each row attends to, for each head of keys apart: those with the greatest q k of an indexer's head,
// the row's own and the nearest before it in any case; of equal ones the earlier.
//
// Queries and keys of the indexer are normalised and rotated, and a row's key is kept in a cache of the indexer's own.
#pragma once

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <string>

#include "attend_plan.inl"
#include "select_plan.inl"
#include "selected.h"

namespace landrace {
namespace LANDRACE_ISA {

class SelectBlocks final : public Operation {
public:
    static constexpr Field kSchema[] = {
        integer_field("layer"), integer_field("n_heads"), integer_field("head_dim"), integer_field("block"), integer_field("n_blocks"),
        integer_field("n_local"), buffer_field("q"), buffer_field("k"), vector_field("q_norm"), vector_field("k_norm"), number_field("eps"),
        optional(integer_field("rotary")), optional(integer_field("rotary_half")), optional(integer_field("group")),
    };

    SelectBlocks(const Fields& fields, Workspace& workspace)
        : layer_(static_cast<int>(fields.integer("layer"))), n_heads_(static_cast<int>(fields.integer("n_heads"))), shape_(index_shape(fields)),
          block_(static_cast<int>(fields.integer("block"))), n_blocks_(static_cast<int>(fields.integer("n_blocks"))),
          n_local_(static_cast<int>(fields.integer("n_local"))), q_(fields.buffer("q")), k_(fields.buffer("k")), q_norm_(fields.vector("q_norm")),
          k_norm_(fields.vector("k_norm")), eps_(fields.number("eps")), rotary_(static_cast<size_t>(fields.integer("rotary"))),
          half_(static_cast<int>(fields.integer("rotary_half"))), group_(static_cast<size_t>(fields.integer("group"))) {
        if (block_ < 1 || n_blocks_ < 1 || block_ > kMostChosen / n_blocks_)
            throw std::invalid_argument("there are no " + std::to_string(n_blocks_) + " blocks of " + std::to_string(block_) + " positions to choose");
        if (n_local_ < 1 || n_local_ > n_blocks_) throw std::invalid_argument("a row's own block is one of those that it attends to");
        if (n_heads_ < 1) throw std::invalid_argument("there are no heads");
        workspace.expect(q_, n_heads_ * shape_.head_dim);
        workspace.expect(k_, shape_.head_dim);
        if (q_norm_.size != shape_.head_dim || k_norm_.size != shape_.head_dim)
            throw std::invalid_argument("a norm over heads needs a weight for each of its channels");
        if (half_ < 0 || 2 * half_ > shape_.head_dim)
            throw std::invalid_argument(std::to_string(shape_.head_dim) + " channels cannot turn in " + std::to_string(half_) + " pairs");
        workspace.write_layer(layer_, shape_, static_cast<int>(fields.integer("group")));
        const Choice choice{block_ * n_blocks_, block_ * n_blocks_};
        plan_ = &workspace.state<SelectPlan>(choice, n_heads_, 1);
        selected_ = &workspace.state<Selected>(choice, n_heads_);
        selected_->is_written = true;
    }

    void check(const Step& step) const override {
        if (half_) expect_within(static_cast<int64_t>(rotary_), static_cast<int64_t>(step.rotary.size()), "table of angles");
        expect_seen(step, group_, {Mask::Kind::full, 0});
    }

    void run(const Context& c, int thread) override {
        c.share(thread, c.step.n_rows, [&](int row) {
            alignas(64) float key[kMaxHeadDim];
            make(c, row, k_norm_, c.row(k_, row), key);
            keep_index_key(c.workspace.cache(layer_), shape_, c.step.groups[group_].write_slots[row], key);
            if (!selected_->has_lists(c.step.positions[row])) return;
            for (int h = 0; h < n_heads_; ++h) make(c, row, q_norm_, c.row(q_, row) + h * shape_.head_dim, c.row(q_, row) + h * shape_.head_dim);
        });
        for (const SelectPlan::Block& block : plan_->blocks()) {
            c.share(thread, static_cast<int>(block.pieces.size()), [&](int piece) { score(c, block.pieces[static_cast<size_t>(piece)]); });
            c.share(thread, (block.end - block.first) * n_heads_, [&](int piece) { choose_blocks(block.first + piece / n_heads_, piece % n_heads_, thread); });
        }
    }

private:
    /// Norm and rotation of a head.
    void make(const Context& c, int row, const Vector& norm, const float* x, float* out) const {
        rms_norm(x, norm.data, eps_, shape_.head_dim, out);
        if (!half_) return;
        const RotaryTable& table = c.step.rotary[rotary_];
        const int64_t at = table.rows[row] * half_;
        rotate(out, table.cos + at, table.sin + at, half_);
    }

    void score(const Context& c, const SelectPlan::Piece& piece) const {
        switch (c.workspace.cache(layer_).type) {
            case CacheType::f32: return score_typed<CacheType::f32>(c, piece);
            case CacheType::f16: return score_typed<CacheType::f16>(c, piece);
            case CacheType::bf16: return score_typed<CacheType::bf16>(c, piece);
            case CacheType::i8: return score_typed<CacheType::i8>(c, piece);
            case CacheType::i4: break;  // An indexer's keys are not kept so.
        }
    }

    template <CacheType type> void score_typed(const Context& c, const SelectPlan::Piece& piece) const {
        const SelectPlan::Row& row = plan_->row(piece.row);
        const PieceKeys keys = keys_of(c, group_, c.workspace.cache(layer_), shape_, row, piece.chunk);
        for (int h = 0; h < n_heads_; ++h) {
            float* scores = plan_->scores(piece.row, h) + keys.base;
            for (int t = 0; t < keys.n_tiles; ++t) {
                Floats out[1][1];
                tile_scores<type, 1, 1>(c.row(q_, row.row) + h * shape_.head_dim, keys.tiles + t, shape_.head_dim, out);
                store(scores + t * kTile, type == CacheType::i8 ? mul(out[0][0], load(keys.scales[t])) : out[0][0]);
            }
        }
    }

    /// Keys' scores become blocks', in their place, and those of the best blocks the row's positions.
    void choose_blocks(int index, int head, int thread) const {
        const SelectPlan::Row& row = plan_->row(index);
        float* scores = plan_->scores(index, head);
        const int n = ceil_div(row.n_keys, block_);
        for (int b = 0; b < n; ++b) {
            float best = scores[b * block_];
            // What is no number is the best.
            for (int key = b * block_ + 1; key < std::min(row.n_keys, (b + 1) * block_); ++key)
                if (!(scores[key] <= best) && best == best) best = scores[key];
            scores[b] = b >= n - n_local_ ? std::numeric_limits<float>::infinity() : best;
        }
        choose_positions(scores, row, block_, n_blocks_, plan_->ranks(thread), *selected_, head);
    }

    int layer_, n_heads_;
    IndexShape shape_;
    int block_, n_blocks_, n_local_, q_, k_;
    Vector q_norm_, k_norm_;
    float eps_;
    size_t rotary_;
    int half_;
    size_t group_;
    SelectPlan* plan_;
    Selected* selected_;
};

LANDRACE_OPERATION(select_blocks, SelectBlocks)

}  // namespace LANDRACE_ISA
}  // namespace landrace
