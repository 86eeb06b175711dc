// One step's input, and whether it can be computed.
#pragma once

#include <cstdint>
#include <vector>

#include "types.h"

namespace landrace {

/// Which rows an operation works on: all of the step's, those whose logits are wanted, or those of an adapter (its slot).
enum : int { kAllRows = -1, kLogitRows = -2 };

/// Angles of one kind of rotation: row i of the step uses row `rows[i]` of the tables.
struct RotaryTable {
    const float* cos;
    const float* sin;
    const int64_t* rows;
    int64_t n_table_rows;
};

/// Where the layers of one cache group keep each sequence's positions, or its entries of `every` positions each, which take
/// their place: an entry is there from the last of its positions on, whose row writes it.
struct CacheSlots {
    const int64_t* const* slots;  // by sequence: the slots of its positions from first_positions[s] on
    const int64_t* counts;        // by sequence: how many
    const int64_t* first_positions;
    const int64_t* write_slots;   // [n_rows]
    int64_t every;

    /// Of a sequence, by position: the first ones are not there.
    const int64_t* by_position(int sequence) const { return slots[sequence] - first_positions[sequence]; }
};

/// How a sequence's rows go through its state. The last of them may be guesses: the state that is left does not have them,
/// but what they would do to it is kept beside it, so that the next step can take in those that were right.
struct Passage {
    int64_t read, written;  // states
    int64_t kept;           // guesses beside the state that is read which were right
    int64_t begin, guesses, end;  // rows: the step's own from `begin` on, and the guesses behind them

    /// Whether another state is left than is read: else all rows are guesses behind those that are kept.
    bool moves() const { return begin < guesses; }
    /// The place of a row among those kept beside the state that is left.
    int64_t place(int64_t row) const { return row - guesses + (moves() ? 0 : kept); }
};

/// All addresses stay the caller's.
struct Step {
    int n_rows;
    const int64_t* token_ids;          // [n_rows]
    const int64_t* positions;          // [n_rows]
    const int64_t* token_types;        // [n_rows]: which of the texts of a pair each token is of; null: the first
    int n_sequences;
    const int64_t* starts;             // [n_sequences + 1]
    std::vector<CacheSlots> groups;    // by cache group
    const int64_t* states;             // [n_sequences, 4]: the state that each goes on from, the one it leaves, how many of the
                                       // guesses beside the first are right, and how many of its rows are guesses; null: none
    const int64_t* logit_rows;         // [n_logit_rows]
    int n_logit_rows;
    std::vector<RotaryTable> rotary;
    std::vector<std::vector<int32_t>> adapter_rows;  // by slot; empty: nobody uses it
    float* logits;                     // [n_logit_rows, vocabulary]

    /// Whether a sequence begins in this step, and so goes on from a state of zeros.
    bool begins(int sequence) const { return positions[starts[sequence]] == 0; }

    Passage passage(int sequence) const {
        const int64_t* own = states + 4 * sequence;
        return {own[0], own[1], own[2], starts[sequence], starts[sequence + 1] - own[3], starts[sequence + 1]};
    }

    bool has_guesses() const {
        for (int s = 0; s < n_sequences; ++s)
            if (states[4 * s + 3] > 0) return true;
        return false;
    }

    int count(int rows) const {
        if (rows == kAllRows) return n_rows;
        if (rows == kLogitRows) return n_logit_rows;
        return rows < static_cast<int>(adapter_rows.size()) ? static_cast<int>(adapter_rows[static_cast<size_t>(rows)].size()) : 0;
    }
};

/// Throws std::out_of_range, which says `what`, unless 0 <= value < end.
void expect_within(int64_t value, int64_t end, const char* what);

/// Throws std::out_of_range for a row or angle that does not exist.
void check_rows(const Step& step);

/// Throws std::out_of_range unless every sequence's positions follow one another.
void check_sequences(const Step& step);

/// Throws std::out_of_range unless the states of checked sequences are some of `n_states`, beside each of which there is
/// room for `n_guesses`, and nobody writes what another reads or writes.
void check_states(const Step& step, int64_t n_states, int64_t n_guesses);

/// Throws std::out_of_range unless the positions or entries of checked sequences have slots, in whole tiles, of a cache of
/// `n_slots`.
void check_slots(const Step& step, const CacheSlots& group, int64_t n_slots);

}  // namespace landrace
