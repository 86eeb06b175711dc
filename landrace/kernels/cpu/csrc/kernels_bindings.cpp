// Python's view of the kernels. Addresses come in as integers: the wrappers in landrace/kernels/cpu have checked shapes,
// types and strides before.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <tuple>

#include "cpu_features.h"
#include "memory.h"
#include "packing.h"
#include "program.h"

namespace nb = nanobind;
using namespace landrace;

namespace landrace {
namespace plain { const Kernels& kernels(); }
#ifdef LANDRACE_HAVE_AVX2
namespace avx2 { const Kernels& kernels(); }
#endif
#ifdef LANDRACE_HAVE_AVX2_VNNI
namespace avx2_vnni { const Kernels& kernels(); }
#endif
#ifdef LANDRACE_HAVE_AVX512
namespace avx512 { const Kernels& kernels(); }
#endif
#ifdef LANDRACE_HAVE_AVX512_BF16
namespace avx512_bf16 { const Kernels& kernels(); }
#endif
}  // namespace landrace

namespace {

using Address = uintptr_t;

const Kernels& kernels_of(const std::string& name) {
    switch (isa_named(name, "no kernels for")) {
#ifdef LANDRACE_HAVE_AVX512_BF16
        case Isa::avx512_bf16: return avx512_bf16::kernels();
#endif
#ifdef LANDRACE_HAVE_AVX512
        case Isa::avx512: return avx512::kernels();
#endif
#ifdef LANDRACE_HAVE_AVX2_VNNI
        case Isa::avx2_vnni: return avx2_vnni::kernels();
#endif
#ifdef LANDRACE_HAVE_AVX2
        case Isa::avx2: return avx2::kernels();
#endif
        default: return plain::kernels();
    }
}

template <class T> T* at(Address address) { return reinterpret_cast<T*>(address); }

Matrix matrix_at(int kind, int n_out, int n_in, Address address) {
    return {static_cast<Kind>(kind), n_out, n_in, at<const uint8_t>(address)};
}

size_t matrix_bytes(int kind, int n_out, int n_in) { return matrix_at(kind, n_out, n_in, 0).bytes(); }

void pack_matrix(ThreadPool& pool, int kind, int n_out, int n_in, Address stored, Address to) {
    const Matrix matrix = matrix_at(kind, n_out, n_in, to);
    nb::gil_scoped_release release;
    pool.run(pool.size(), [&](int thread) {
        for (int tile; (tile = pool.claim(thread, matrix.n_tiles())) < matrix.n_tiles();)
            pack(matrix, at<const uint8_t>(stored), at<uint8_t>(to), tile, tile + 1);
    });
}

/// matrix, whether it is gated, the second matrix of a gated pair, two biases, epilogue, factor, buffer.
using Part = std::tuple<Matrix, bool, Matrix, Address, Address, int, float, int>;

HeadShape head_shape(int n_heads, int n_kv_heads, int head_dim) {
    return {n_heads, n_kv_heads, head_dim, (head_dim + kTile - 1) / kTile * kTile};
}

Step make_step(
    int n_rows, Address token_ids, Address positions, int n_sequences, Address starts, Address slots, Address slot_counts, Address write_slots,
    int n_logit_rows, Address logit_rows, const std::vector<std::tuple<Address, Address, Address, int64_t>>& rotary,
    std::vector<std::vector<int32_t>> adapter_rows, Address logits
) {
    Step step{};
    step.n_rows = n_rows;
    step.token_ids = at<const int64_t>(token_ids);
    step.positions = at<const int64_t>(positions);
    step.n_sequences = n_sequences;
    step.starts = at<const int64_t>(starts);
    step.slots = at<const int64_t* const>(slots);
    step.slot_counts = at<const int64_t>(slot_counts);
    step.write_slots = at<const int64_t>(write_slots);
    step.n_logit_rows = n_logit_rows;
    step.logit_rows = at<const int64_t>(logit_rows);
    for (const auto& [cos, sin, rows, n_table_rows] : rotary)
        step.rotary.push_back({at<const float>(cos), at<const float>(sin), at<const int64_t>(rows), n_table_rows});
    step.adapter_rows = std::move(adapter_rows);
    step.logits = at<float>(logits);
    return step;
}

}  // namespace

void bind_kernels(nb::module_& m) {
    nb::class_<Arena>(m, "Arena")
        .def(nb::init<size_t>(), nb::arg("bytes"))
        .def_prop_ro("address", [](const Arena& arena) { return reinterpret_cast<Address>(arena.data()); })
        .def_prop_ro("bytes", &Arena::bytes);
    nb::class_<Matrix>(m, "Matrix").def("__init__", [](Matrix* self, int kind, int n_out, int n_in, Address address) {
        new (self) Matrix(matrix_at(kind, n_out, n_in, address));
    });
    nb::class_<ThreadPool>(m, "ThreadPool").def(nb::init<int>(), nb::arg("size")).def_prop_ro("size", &ThreadPool::size);
    m.def("matrix_bytes", &matrix_bytes, nb::arg("kind"), nb::arg("n_out"), nb::arg("n_in"));
    m.def("pack_matrix", &pack_matrix);
    m.def("copy", [](Address from, Address to, size_t bytes) { std::memcpy(at<uint8_t>(to), at<const uint8_t>(from), bytes); });
    m.def("unpack_row", [](const std::string& isa, const Matrix& matrix, int row, float factor, Address out) {
        kernels_of(isa).unpack_row(matrix, row, factor, at<float>(out));
    });

    nb::class_<Program>(m, "Program")
        .def("__init__", [](Program* self, ThreadPool& pool, const std::string& isa) { new (self) Program(kernels_of(isa), pool); },
             nb::keep_alive<1, 2>(), nb::arg("pool"), nb::arg("isa"))
        .def("add_buffer", &Program::add_buffer)
        .def("add_embedding", &Program::add_embedding)
        .def("add_norm", [](Program& self, int in, Address weight, float eps, bool add, float factor, int out) {
            self.add_norm(in, at<const float>(weight), eps, add, factor, out);
        })
        .def("add_swiglu", &Program::add_swiglu)
        .def("add_product", [](Program& self, std::string name, int in, Address norm, float eps, int rows, bool gather, bool scatter, const std::vector<Part>& parts) {
            std::vector<ProductPart> own;
            for (const auto& [matrix, is_gated, gated, bias, gated_bias, epilogue, factor, out] : parts)
                own.push_back({matrix, is_gated, gated, at<const float>(bias), at<const float>(gated_bias), static_cast<Epilogue>(epilogue), factor, out});
            self.add_product(std::move(name), in, at<const float>(norm), eps, rows, gather, scatter, std::move(own));
        })
        .def("add_rope", [](Program& self, int layer, int rotary, int n_heads, int n_kv_heads, int head_dim, int norm, Address q_norm, Address k_norm,
                            float eps, int rotary_half, float scale, int q, int k, int v) {
            RopeJob job{};
            job.shape = head_shape(n_heads, n_kv_heads, head_dim);
            job.norm = static_cast<HeadNorm>(norm);
            job.q_norm = at<const float>(q_norm);
            job.k_norm = at<const float>(k_norm);
            job.eps = eps;
            job.rotary_half = rotary_half;
            job.scale = scale;
            self.add_rope(layer, rotary, job, q, k, v);
        })
        .def("add_attention", [](Program& self, int layer, int n_heads, int n_kv_heads, int head_dim, int window, int q, int out) {
            self.add_attention(layer, head_shape(n_heads, n_kv_heads, head_dim), window, q, out);
        })
        .def("bind_cache", [](Program& self, int layer, int type, Address tiles, Address key_scales, Address value_scales, int64_t n_slots) {
            self.bind_cache(layer, {static_cast<CacheType>(type), at<uint8_t>(tiles), at<float>(key_scales), at<float>(value_scales)}, n_slots);
        })
        .def("write", [](Program& self, int buffer, Address rows, int n_rows) {
            self.reserve(n_rows, 1);
            std::copy_n(at<const float>(rows), static_cast<size_t>(n_rows) * static_cast<size_t>(self.width(buffer)), self.rows(buffer));
        })
        .def("read", [](Program& self, int buffer, Address out, int n_rows) {
            self.reserve(n_rows, 1);
            std::copy_n(self.rows(buffer), static_cast<size_t>(n_rows) * static_cast<size_t>(self.width(buffer)), at<float>(out));
        })
        .def("run", [](Program& self, int threads, int n_rows, Address token_ids, Address positions, int n_sequences, Address starts, Address slots, Address slot_counts,
                       Address write_slots, int n_logit_rows, Address logit_rows, const std::vector<std::tuple<Address, Address, Address, int64_t>>& rotary,
                       std::vector<std::vector<int32_t>> adapter_rows, Address logits) {
            const Step step = make_step(n_rows, token_ids, positions, n_sequences, starts, slots, slot_counts, write_slots, n_logit_rows, logit_rows, rotary, std::move(adapter_rows), logits);
            nb::gil_scoped_release release;
            self.run(step, threads);
        })
        .def("profile", [](Program& self, int threads, int n_rows, Address token_ids, Address positions, int n_sequences, Address starts, Address slots, Address slot_counts,
                           Address write_slots, int n_logit_rows, Address logit_rows, const std::vector<std::tuple<Address, Address, Address, int64_t>>& rotary,
                           std::vector<std::vector<int32_t>> adapter_rows, Address logits) {
            const Step step = make_step(n_rows, token_ids, positions, n_sequences, starts, slots, slot_counts, write_slots, n_logit_rows, logit_rows, rotary, std::move(adapter_rows), logits);
            std::vector<std::tuple<std::string, double>> out;
            for (Timing& timing : self.profile(step, threads)) out.emplace_back(std::move(timing.name), timing.seconds);
            return out;
        });
}
