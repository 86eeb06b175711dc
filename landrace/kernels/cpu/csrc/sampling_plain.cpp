#define LANDRACE_ISA plain
#define LANDRACE_LANES 0
#include "sampling.inl"

namespace landrace {
namespace LANDRACE_ISA {

ChooseRow row_chooser() { return choose_row; }

}  // namespace LANDRACE_ISA
}  // namespace landrace
