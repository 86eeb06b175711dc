#include "machine_ymm.h"

namespace landrace {
namespace {

// Without a dot product of bytes: pairs of products into 16 bits, pairs of those into 32, and the sum.
struct Int8 {
    using Sum = __m256i;
    using Factor = __m256i;
    static constexpr int kCount = 8, kProducts = 32;
    static Sum zero() { return _mm256_setzero_si256(); }
    static Factor one() { return _mm256_set1_epi8(1); }
    static void multiply_add(Sum& sum, Factor a, Factor b) {
        const __m256i pairs = _mm256_maddubs_epi16(a, b);
        sum = _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
    }
    static double total(Sum sum) { return total_of<double, int32_t>(sum); }
};

}  // namespace

constexpr MachineLoops machine_avx2 = {
    &read_sum, peak<Int8>("vpmaddubsw + vpmaddwd + vpaddd"), peak<Fp32>("vfmadd231ps (float32)"),
    peak<Fp32>("vfmadd231ps")};

}  // namespace landrace
