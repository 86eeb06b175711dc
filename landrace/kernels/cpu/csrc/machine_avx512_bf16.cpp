#include "machine_zmm.h"

namespace landrace {
namespace {

struct Bf16 {
    using Sum = __m512;
    using Factor = __m512i;  // thirty-two bfloat16 numbers
    static constexpr int kCount = 16, kProducts = 32;
    static Sum zero() { return _mm512_setzero_ps(); }
    static Factor one() { return _mm512_set1_epi16(0x3f80); }
    static void multiply_add(Sum& sum, Factor a, Factor b) {
        sum = _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
    }
    static double total(Sum sum) { return total_of<double, float>(sum); }
};

}  // namespace

constexpr MachineLoops machine_avx512_bf16 = {
    &read_sum, peak<Int8>("vpdpbusd"), peak<Bf16>("vdpbf16ps"), peak<Fp32>("vfmadd231ps")};

}  // namespace landrace
