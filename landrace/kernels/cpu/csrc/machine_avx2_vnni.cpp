#include "machine_ymm.h"

namespace landrace {
namespace {

struct Int8 {
    using Sum = __m256i;
    using Factor = __m256i;
    static constexpr int kCount = 12, kProducts = 32;
    static Sum zero() { return _mm256_setzero_si256(); }
    static Factor one() { return _mm256_set1_epi8(1); }
    static void multiply_add(Sum& sum, Factor a, Factor b) { sum = _mm256_dpbusd_avx_epi32(sum, a, b); }
    static double total(Sum sum) { return total_of<double, int32_t>(sum); }
};

}  // namespace

constexpr MachineLoops machine_avx2_vnni = {
    &read_sum, peak<Int8>("vpdpbusd (VEX)"), peak<Fp32>("vfmadd231ps (float32)"), peak<Fp32>("vfmadd231ps")};

}  // namespace landrace
