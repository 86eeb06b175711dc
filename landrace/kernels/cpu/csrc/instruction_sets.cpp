#include "instruction_sets.h"

#include <cstdint>
#include <cstring>
#include <stdexcept>

#if defined(__x86_64__) && defined(__GNUC__)
#define LANDRACE_ASK_X86 1
#include <cpuid.h>
#endif

namespace landrace {

// Token choice and quantisation gain nothing from what the larger sets add.
#define LANDRACE_DECLARE_OPERATIONS(set) namespace set { Span<const Registration* const> operations(); }
#define LANDRACE_DECLARE_REST(set) namespace set { ChooseRow row_chooser(); Quantisers quantisers(); }

LANDRACE_DECLARE_OPERATIONS(plain) LANDRACE_DECLARE_REST(plain)
LANDRACE_DECLARE_OPERATIONS(avx2) LANDRACE_DECLARE_REST(avx2)
LANDRACE_DECLARE_OPERATIONS(avx2_vnni)
LANDRACE_DECLARE_OPERATIONS(avx512) LANDRACE_DECLARE_REST(avx512)
LANDRACE_DECLARE_OPERATIONS(avx512_bf16)

namespace {

struct Features {
    bool avx2 = false;
    bool avx2_vnni = false;
    bool avx512 = false;
    bool avx512_bf16 = false;
};

#ifdef LANDRACE_ASK_X86
struct Registers {
    uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
};

Registers cpuid(uint32_t leaf, uint32_t subleaf) {
    Registers r;
    if (!__get_cpuid_count(leaf, subleaf, &r.eax, &r.ebx, &r.ecx, &r.edx)) return Registers{};
    return r;
}

bool bit(uint32_t word, int index) { return (word >> index) & 1u; }

// The register states that the operating system saves when it switches threads (XCR0).
uint64_t saved_states() {
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (static_cast<uint64_t>(high) << 32) | low;
}

// Bits: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2, CPUID leaves 1 and 7.
Features detect() {
    Features found;
    const Registers one = cpuid(1, 0);
    const bool fma = bit(one.ecx, 12), osxsave = bit(one.ecx, 27), avx = bit(one.ecx, 28), f16c = bit(one.ecx, 29);
    if (!osxsave || !avx) return found;
    const uint64_t states = saved_states();
    constexpr uint64_t ymm = 0x6, zmm = 0xe6;
    const Registers seven = cpuid(7, 0);
    const Registers more = seven.eax >= 1 ? cpuid(7, 1) : Registers{};

    found.avx2 = (states & ymm) == ymm && bit(seven.ebx, 5) && fma && f16c;
    found.avx2_vnni = found.avx2 && bit(more.eax, 4);
    const bool f = bit(seven.ebx, 16), dq = bit(seven.ebx, 17), bw = bit(seven.ebx, 30), vl = bit(seven.ebx, 31);
    const bool vnni = bit(seven.ecx, 11);
    found.avx512 = found.avx2 && (states & zmm) == zmm && f && dq && bw && vl && vnni;
    found.avx512_bf16 = found.avx512 && bit(more.eax, 5);
    return found;
}
#else
Features detect() { return Features{}; }
#endif

[[maybe_unused]] const Features& features() {
    static const Features found = detect();
    return found;
}

std::vector<InstructionSet> list_sets() {
    std::vector<InstructionSet> sets;
    const auto add = [&](bool supported, const InstructionSet& set) {
        if (supported) sets.push_back(set);
    };
    add(true, {"plain", plain::operations, plain::row_chooser, plain::quantisers, &machine_plain});
#ifdef LANDRACE_HAVE_AVX2
    add(features().avx2, {"avx2", avx2::operations, avx2::row_chooser, avx2::quantisers, &machine_avx2});
#endif
#ifdef LANDRACE_HAVE_AVX2_VNNI
    add(features().avx2_vnni, {"avx2_vnni", avx2_vnni::operations, avx2::row_chooser, avx2::quantisers, &machine_avx2_vnni});
#endif
#ifdef LANDRACE_HAVE_AVX512
    add(features().avx512, {"avx512", avx512::operations, avx512::row_chooser, avx512::quantisers, &machine_avx512});
#endif
#ifdef LANDRACE_HAVE_AVX512_BF16
    add(features().avx512_bf16, {"avx512_bf16", avx512_bf16::operations, avx512::row_chooser, avx512::quantisers, &machine_avx512_bf16});
#endif
    return sets;
}

}  // namespace

const std::vector<InstructionSet>& instruction_sets() {
    static const std::vector<InstructionSet> sets = list_sets();
    return sets;
}

const InstructionSet& instruction_set(const std::string& name) {
    for (const InstructionSet& set : instruction_sets())
        if (name == set.name) return set;
    throw std::invalid_argument("this build or processor has no instruction set " + name);
}

std::string processor_name() {
#ifdef LANDRACE_ASK_X86
    // The brand string: forty-eight characters in the registers of leaves 0x80000002 to 0x80000004.
    char text[49] = {};
    for (uint32_t part = 0; part < 3; ++part) {
        const Registers r = cpuid(0x80000002u + part, 0);
        const uint32_t words[4] = {r.eax, r.ebx, r.ecx, r.edx};
        std::memcpy(text + 16 * part, words, sizeof words);
    }
    std::string name(text);
    name.erase(0, name.find_first_not_of(' '));
    name.erase(name.find_last_not_of(' ') + 1);
    return name;
#else
    return {};
#endif
}

}  // namespace landrace
