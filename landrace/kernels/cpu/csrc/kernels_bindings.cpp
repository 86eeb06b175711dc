// Python's view of weights, threads and memory. Addresses come in as integers: the wrappers in landrace/kernels/cpu have
// checked shapes, types and strides before.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cstring>

#include "compaction.h"
#include "memory.h"
#include "named.h"
#include "packing.h"
#include "thread_pool.h"

namespace nb = nanobind;
using namespace landrace;

namespace {

using Address = uintptr_t;

template <class T> T* at(Address address) { return reinterpret_cast<T*>(address); }

Matrix matrix_at(const std::string& kind, int n_out, int n_in, Address address) {
    return {named<Kind>(kKinds, kind), n_out, n_in, at<const uint8_t>(address)};
}

size_t matrix_bytes(const std::string& kind, int n_out, int n_in) { return matrix_at(kind, n_out, n_in, 0).bytes(); }

void pack_matrix(ThreadPool& pool, const std::string& kind, int n_out, int n_in, Address stored, Address to) {
    const Matrix matrix = matrix_at(kind, n_out, n_in, to);
    nb::gil_scoped_release release;
    pool.run(pool.size(), [&](int thread) {
        for (int tile; (tile = pool.claim(thread, matrix.n_tiles())) < matrix.n_tiles();)
            pack(matrix, at<const uint8_t>(stored), at<uint8_t>(to), tile, tile + 1);
    });
}

}  // namespace

void bind_kernels(nb::module_& m) {
    nb::class_<Arena>(m, "Arena")
        .def(nb::init<size_t>(), nb::arg("bytes"))
        .def_prop_ro("address", [](const Arena& arena) { return reinterpret_cast<Address>(arena.data()); })
        .def_prop_ro("bytes", &Arena::bytes);
    nb::class_<Matrix>(m, "Matrix").def("__init__", [](Matrix* self, const std::string& kind, int n_out, int n_in, Address address) {
        new (self) Matrix(matrix_at(kind, n_out, n_in, address));
    });
    nb::class_<ThreadPool>(m, "ThreadPool").def(nb::init<int>(), nb::arg("size")).def_prop_ro("size", &ThreadPool::size);
    nb::class_<Compaction>(m, "Compaction")
        .def("__init__", [](Compaction* self, ThreadPool& pool, int n_out, int n_in, Address stored) {
            nb::gil_scoped_release release;
            new (self) Compaction(pool, n_out, n_in, at<const uint8_t>(stored));
        })
        .def_prop_ro("bytes", &Compaction::bytes)
        .def("pack", [](const Compaction& self, ThreadPool& pool, Address to) {
            nb::gil_scoped_release release;
            return self.pack(pool, at<uint8_t>(to));
        });
    m.attr("TILE") = kTile;
    m.attr("KINDS") = std::vector<std::string>(std::begin(kKinds), std::end(kKinds));
    m.def("matrix_bytes", &matrix_bytes, nb::arg("kind"), nb::arg("n_out"), nb::arg("n_in"));
    m.def("pack_matrix", &pack_matrix);
    m.def("copy", [](Address from, Address to, size_t bytes) { std::memcpy(at<uint8_t>(to), at<const uint8_t>(from), bytes); });
}
