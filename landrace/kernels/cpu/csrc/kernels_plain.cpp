#define LANDRACE_ISA plain
#define LANDRACE_LANES 0
#include "operations.inl"
