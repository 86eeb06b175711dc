#define LANDRACE_ISA plain
#define LANDRACE_LANES 0
#include "quantising.inl"

namespace landrace {
namespace LANDRACE_ISA {

Quantisers quantisers() { return all_quantisers(); }

}  // namespace LANDRACE_ISA
}  // namespace landrace
