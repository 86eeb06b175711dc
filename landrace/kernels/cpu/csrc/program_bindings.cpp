// Python's view of programs. landrace/kernels/cpu/program.py has checked fields against the schemas, and tensors of a step.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>
#include <tuple>

#include "instruction_sets.h"
#include "named.h"
#include "program.h"

namespace nb = nanobind;
using namespace landrace;

namespace {

using Address = uintptr_t;

template <class T> T* at(Address address) { return reinterpret_cast<T*>(address); }

/// A schema as [(name, kind, needed, names of a choice, schema of the records)].
nb::list described(Span<const Field> schema) {
    nb::list fields;
    for (const Field& field : schema) {
        nb::list choices;
        for (const char* name : field.choices) choices.append(name);
        fields.append(nb::make_tuple(field.name, kFieldKinds[static_cast<size_t>(field.kind)], field.needed, choices, described(field.fields)));
    }
    return fields;
}

Fields filled(Span<const Field> schema, const nb::dict& values);

Fields::Value value_of(const Field& field, nb::handle value) {
    switch (field.kind) {
        case FieldKind::number: return nb::cast<double>(value);
        case FieldKind::choice: return int64_t{named<int>(field.choices, nb::cast<std::string>(value))};
        case FieldKind::matrix: return nb::cast<Matrix>(value);
        case FieldKind::vector: {
            const auto [address, size] = nb::cast<std::pair<Address, int>>(value);
            return Vector{at<const float>(address), size};
        }
        case FieldKind::records: {
            std::vector<Fields> records;
            for (nb::handle record : nb::cast<nb::list>(value)) records.push_back(filled(field.fields, nb::cast<nb::dict>(record)));
            return records;
        }
        case FieldKind::buffer:
        case FieldKind::integer:
        case FieldKind::flag: break;
    }
    return nb::cast<int64_t>(value);
}

Fields filled(Span<const Field> schema, const nb::dict& values) {
    Fields fields;
    for (const Field& field : schema)
        if (values.contains(field.name)) fields.set(field.name, value_of(field, values[field.name]));
    return fields;
}

void add_operation(Program& self, const std::string& operation, const std::string& name, const nb::dict& values) {
    try {
        self.add(operation, name, filled(self.schema(operation), values));
    } catch (const std::invalid_argument& error) {
        throw std::invalid_argument(operation + " (" + name + "): " + error.what());
    }
}

/// Calls a Python function from the thread that came from Python, while the interpreter is let go of.
Program::Call calling(const nb::callable& function) {
    return [&function](int index) {
        nb::gil_scoped_acquire acquire;
        function(index);
    };
}

}  // namespace

void bind_program(nb::module_& m) {
    nb::dict operations;
    for (const Registration* operation : instruction_sets().front().operations()) operations[operation->name] = described(operation->schema);
    m.attr("OPERATIONS") = operations;
    m.attr("ALL_ROWS") = int{kAllRows};
    m.attr("LOGIT_ROWS") = int{kLogitRows};
    m.attr("LOGITS") = kLogits;
    m.attr("MAX_HEAD_DIM") = kMaxHeadDim;
    m.attr("MAX_ROPE_DIM") = kMaxRopeDim;
    m.attr("CACHE_TYPES") = std::vector<std::string>(std::begin(kCacheTypes), std::end(kCacheTypes));

    nb::class_<Step>(m, "Step").def(
        "__init__",
        [](Step* self, int n_rows, Address token_ids, Address positions, Address token_types, int n_sequences, Address starts,
           const std::vector<std::tuple<Address, Address, Address, Address, int64_t>>& groups, int n_logit_rows, Address logit_rows, const std::vector<std::tuple<Address, Address, Address, int64_t>>& rotary,
           std::vector<std::vector<int32_t>> adapter_rows, Address states, Address logits) {
            Step* step = new (self) Step{};
            step->n_rows = n_rows;
            step->token_ids = at<const int64_t>(token_ids);
            step->positions = at<const int64_t>(positions);
            step->token_types = at<const int64_t>(token_types);
            step->n_sequences = n_sequences;
            step->starts = at<const int64_t>(starts);
            for (const auto& [slots, counts, first_positions, write_slots, every] : groups)
                step->groups.push_back({at<const int64_t* const>(slots), at<const int64_t>(counts), at<const int64_t>(first_positions), at<const int64_t>(write_slots), every});
            step->n_logit_rows = n_logit_rows;
            step->logit_rows = at<const int64_t>(logit_rows);
            for (const auto& [cos, sin, rows, n_table_rows] : rotary)
                step->rotary.push_back({at<const float>(cos), at<const float>(sin), at<const int64_t>(rows), n_table_rows});
            step->adapter_rows = std::move(adapter_rows);
            step->states = at<const int64_t>(states);
            step->logits = at<float>(logits);
        },
        nb::kw_only(), nb::arg("n_rows"), nb::arg("token_ids"), nb::arg("positions"), nb::arg("token_types"), nb::arg("n_sequences"), nb::arg("starts"), nb::arg("groups"), nb::arg("n_logit_rows"), nb::arg("logit_rows"), nb::arg("rotary"), nb::arg("adapter_rows"),
        nb::arg("states"), nb::arg("logits"));

    nb::class_<Program>(m, "Program")
        .def("__init__", [](Program* self, ThreadPool& pool, const std::string& isa) { new (self) Program(instruction_set(isa).operations(), pool); },
             nb::keep_alive<1, 2>(), nb::arg("pool"), nb::arg("isa"))
        .def("add_buffer", [](Program& self, int width) { return self.workspace().add_buffer(width); })
        .def("add", &add_operation)
        .def_prop_ro("vocabulary", [](Program& self) { return self.workspace().vocabulary(); })
        .def("bind_cache", [](Program& self, int layer, const std::string& type, Address tiles, Address key_scales, Address value_scales, int64_t n_slots) {
            self.workspace().bind_cache(layer, {named<CacheType>(kCacheTypes, type), at<uint8_t>(tiles), at<float>(key_scales), at<float>(value_scales)}, n_slots);
        })
        .def_prop_ro("state_sizes", [](Program& self) { return self.workspace().state_sizes(); })
        .def("bind_state", [](Program& self, int part, Address states, int64_t n_states, int64_t n_guesses) { self.workspace().bind_state(part, at<float>(states), n_states, n_guesses); })
        .def("view", [](nb::handle_t<Program> self, int buffer, int n_rows) {
            Workspace& workspace = nb::cast<Program&>(self).workspace();
            const auto width = static_cast<size_t>(workspace.checked_width(buffer));
            workspace.reserve(n_rows, 1);
            return nb::ndarray<nb::pytorch, float, nb::ndim<2>>(workspace.rows(buffer), {static_cast<size_t>(n_rows), width}, self);
        })
        .def("run", [](Program& self, const Step& step, int threads, const nb::callable& call) {
            nb::gil_scoped_release release;
            self.run(step, threads, calling(call));
        })
        .def("profile", [](Program& self, const Step& step, int threads, const nb::callable& call) {
            std::vector<Timing> timings;
            {
                nb::gil_scoped_release release;
                timings = self.profile(step, threads, calling(call));
            }
            std::vector<std::tuple<std::string, double>> out;
            for (Timing& timing : timings) out.emplace_back(std::move(timing.name), timing.seconds);
            return out;
        });
}
