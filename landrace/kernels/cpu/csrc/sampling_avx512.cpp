#define LANDRACE_ISA avx512
#define LANDRACE_LANES 512
#include "sampling.inl"

namespace landrace {
namespace LANDRACE_ISA {

ChooseRow row_chooser() { return choose_row; }

}  // namespace LANDRACE_ISA
}  // namespace landrace
