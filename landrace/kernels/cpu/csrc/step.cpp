#include "step.h"

#include <stdexcept>
#include <string>

namespace landrace {

void expect_within(int64_t value, int64_t end, const char* what) {
    if (value < 0 || value >= end) throw std::out_of_range(std::string(what) + " " + std::to_string(value) + " is not one of " + std::to_string(end));
}

void check_rows(const Step& step) {
    for (const RotaryTable& table : step.rotary)
        for (int i = 0; i < step.n_rows; ++i) expect_within(table.rows[i], table.n_table_rows, "row of the angles");
    for (int i = 0; i < step.n_logit_rows; ++i) expect_within(step.logit_rows[i], step.n_rows, "row");
    for (const auto& rows : step.adapter_rows) {
        if (rows.size() > static_cast<size_t>(step.n_rows)) throw std::out_of_range("an adapter has more rows than the step");
        for (const int32_t row : rows) expect_within(row, step.n_rows, "row");
    }
}

void check_sequences(const Step& step) {
    for (int s = 0; s < step.n_sequences; ++s) {
        const int64_t begin = step.starts[s], end = step.starts[s + 1];
        if (begin > end || end > step.n_rows) throw std::out_of_range("sequences do not lie in the step's rows");
        if (begin < end && step.positions[end - 1] < 0) throw std::out_of_range("a position is negative");
        for (int64_t i = begin; i < end; ++i)
            if (step.positions[i] < 0 || step.positions[i] != step.positions[end - 1] - (end - 1 - i))
                throw std::out_of_range("positions do not follow one another");
    }
}

void check_states(const Step& step, int64_t n_states, int64_t n_guesses) {
    if (!step.states) throw std::out_of_range("a step brings no states");
    std::vector<int> users(static_cast<size_t>(n_states), -1);  // who writes each state
    const auto present = [&](int s) { return step.starts[s] < step.starts[s + 1]; };
    for (int s = 0; s < step.n_sequences; ++s) {
        if (!present(s)) continue;
        const Passage passage = step.passage(s);
        expect_within(passage.written, n_states, "state");
        if (users[static_cast<size_t>(passage.written)] >= 0) throw std::out_of_range("two sequences leave one state");
        users[static_cast<size_t>(passage.written)] = s;
        expect_within(passage.kept, n_guesses + 1, "number of right guesses");
        expect_within(passage.end - passage.guesses, passage.end - passage.begin + 1, "number of guesses");
        if (passage.guesses < passage.end) expect_within(passage.place(passage.end - 1), n_guesses, "guess");
        if (step.begins(s) && (passage.kept || !passage.moves())) throw std::out_of_range("nothing comes before a sequence's beginning");
        if (!passage.moves() && passage.read != passage.written) throw std::out_of_range("guesses alone leave the state where it is");
    }
    for (int s = 0; s < step.n_sequences; ++s) {
        if (!present(s) || step.begins(s)) continue;
        const int64_t read = step.passage(s).read;
        expect_within(read, n_states, "state");
        const int writer = users[static_cast<size_t>(read)];
        if (writer >= 0 && writer != s) throw std::out_of_range("a sequence leaves the state that another goes on from");
    }
}

void check_slots(const Step& step, const CacheSlots& group, int64_t n_slots) {
    if (group.every < 1) throw std::out_of_range("an entry stands for at least one position");
    for (int s = 0; s < step.n_sequences; ++s) {
        const int64_t begin = step.starts[s], end = step.starts[s + 1], first = group.first_positions[s];
        if (begin == end) continue;
        if (first < 0 || first % kTile) throw std::out_of_range("position " + std::to_string(first) + " does not begin a tile");
        const int64_t last = (step.positions[end - 1] + 1) / group.every - 1;
        if (last < first) continue;
        expect_within(last - first, group.counts[s], "position");
        const int64_t* slots = group.by_position(s);
        for (int64_t position = first; position <= last; ++position) {
            const int64_t inner = position % kTile;
            expect_within(slots[position], n_slots, "cache slot");
            if (slots[position] != slots[position - inner] + inner || slots[position - inner] % kTile)
                throw std::out_of_range("cache blocks are not whole tiles of sixteen");
        }
        for (int64_t i = begin; i < end; ++i) {
            if ((step.positions[i] + 1) % group.every) continue;
            const int64_t position = step.positions[i] / group.every;
            expect_within(position - first, group.counts[s], "position");
            if (group.write_slots[i] != slots[position]) throw std::out_of_range("a row is written to another position's slot");
        }
    }
}

}  // namespace landrace
