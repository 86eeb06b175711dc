#include "machine_zmm.h"

namespace landrace {

constexpr MachineLoops machine_avx512 = {
    &read_sum, peak<Int8>("vpdpbusd"), peak<Fp32>("vfmadd231ps (float32)"), peak<Fp32>("vfmadd231ps")};

}  // namespace landrace
