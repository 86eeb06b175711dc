// The extension module: each part of it binds its own functions.
#include <nanobind/nanobind.h>

void bind_machine(nanobind::module_& m);
void bind_kernels(nanobind::module_& m);
void bind_program(nanobind::module_& m);
void bind_quantising(nanobind::module_& m);
void bind_sampling(nanobind::module_& m);

NB_MODULE(_native, m) {
    bind_machine(m);
    bind_kernels(m);
    bind_program(m);
    bind_quantising(m);
    bind_sampling(m);
}
