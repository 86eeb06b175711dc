#define LANDRACE_ISA avx2
#define LANDRACE_LANES 256
#include "quantising.inl"

namespace landrace {
namespace LANDRACE_ISA {

Quantisers quantisers() { return all_quantisers(); }

}  // namespace LANDRACE_ISA
}  // namespace landrace
