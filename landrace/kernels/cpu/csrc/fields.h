// What an operation is recorded with: its schema says which fields it has, Python checks them against it and fills them in.
#pragma once

#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "types.h"

namespace landrace {

enum class FieldKind { buffer, integer, number, flag, choice, matrix, vector, records };
/// What Python calls them, in order.
constexpr const char* kFieldKinds[] = {"buffer", "integer", "number", "flag", "choice", "matrix", "vector", "records"};

/// One field of a schema. A field that is not needed and not given reads as zero, as the first choice or as nothing.
struct Field {
    const char* name;
    FieldKind kind;
    bool needed = true;
    Span<const char* const> choices = {};  // a choice's names, in the order of its enumeration
    Span<const Field> fields = {};         // of each of the records
};

constexpr Field buffer_field(const char* name) { return {name, FieldKind::buffer}; }
constexpr Field integer_field(const char* name) { return {name, FieldKind::integer}; }
constexpr Field number_field(const char* name) { return {name, FieldKind::number}; }
constexpr Field flag_field(const char* name) { return {name, FieldKind::flag}; }
constexpr Field matrix_field(const char* name) { return {name, FieldKind::matrix}; }
constexpr Field vector_field(const char* name) { return {name, FieldKind::vector}; }
constexpr Field choice_field(const char* name, Span<const char* const> choices) { return {name, FieldKind::choice, true, choices}; }
constexpr Field records_field(const char* name, Span<const Field> fields) { return {name, FieldKind::records, true, {}, fields}; }
constexpr Field optional(Field field) {
    field.needed = false;
    return field;
}

/// Float32 values in weight memory.
struct Vector {
    const float* data = nullptr;
    int size = 0;
};

/// The values of an operation's fields, or of one of its records.
class Fields {
public:
    using Value = std::variant<int64_t, double, Matrix, Vector, std::vector<Fields>>;

    void set(std::string name, Value value) { values_.emplace_back(std::move(name), std::move(value)); }

    bool has(std::string_view name) const { return find(name) != nullptr; }
    int64_t integer(std::string_view name) const { return get<int64_t>(name); }
    int buffer(std::string_view name) const { return static_cast<int>(integer(name)); }
    bool flag(std::string_view name) const { return integer(name) != 0; }
    float number(std::string_view name) const { return static_cast<float>(get<double>(name)); }
    template <class E> E choice(std::string_view name) const { return static_cast<E>(integer(name)); }
    Matrix matrix(std::string_view name) const { return get<Matrix>(name); }
    Vector vector(std::string_view name) const { return get<Vector>(name); }
    std::vector<Fields> records(std::string_view name) const { return get<std::vector<Fields>>(name); }

private:
    const Value* find(std::string_view name) const {
        for (const auto& [own, value] : values_)
            if (own == name) return &value;
        return nullptr;
    }
    template <class T> T get(std::string_view name) const {
        const Value* value = find(name);
        return value ? std::get<T>(*value) : T{};
    }

    std::vector<std::pair<std::string, Value>> values_;
};

/// The fields n_heads, n_kv_heads and head_dim. Throws std::invalid_argument where they are no shape.
inline HeadShape head_shape(const Fields& fields) {
    const auto n_heads = static_cast<int>(fields.integer("n_heads")), n_kv_heads = static_cast<int>(fields.integer("n_kv_heads"));
    const auto head_dim = static_cast<int>(fields.integer("head_dim"));
    if (n_heads < 1 || n_kv_heads < 1 || n_heads % n_kv_heads || head_dim < 1 || head_dim > kMaxHeadDim)
        throw std::invalid_argument("there are no such heads");
    return {n_heads, n_kv_heads, head_dim, whole_vectors(head_dim)};
}

/// The fields head_dim and n_gates. Throws std::invalid_argument where they are no shape.
inline IndexShape index_shape(const Fields& fields) {
    const IndexShape shape{static_cast<int>(fields.integer("head_dim")), static_cast<int>(fields.integer("n_gates"))};
    if (shape.head_dim < 1 || shape.head_dim > kMaxHeadDim || (shape.n_gates && shape.n_gates != shape.head_dim)) throw std::invalid_argument("there are no such keys of an indexer");
    return shape;
}

/// The field width. Throws std::invalid_argument where it is no shape.
inline InputShape input_shape(const Fields& fields) {
    const InputShape shape{static_cast<int>(fields.integer("width"))};
    if (shape.width < 1) throw std::invalid_argument("there is nothing to compress");
    return shape;
}

/// The fields n_heads, rank and rope_dim. Throws std::invalid_argument where they are no shape.
inline LatentShape latent_shape(const Fields& fields) {
    const LatentShape shape{
        static_cast<int>(fields.integer("n_heads")), static_cast<int>(fields.integer("rank")), static_cast<int>(fields.integer("rope_dim"))};
    if (shape.n_heads < 1 || shape.rank < 1 || shape.rank > kMaxHeadDim || shape.rope_dim < 0 || shape.rope_dim > kMaxRopeDim)
        throw std::invalid_argument("there are no such latents");
    return shape;
}

}  // namespace landrace
