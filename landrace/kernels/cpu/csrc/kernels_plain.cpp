#define LANDRACE_ISA plain
#define LANDRACE_ISA_NAME "plain"
#define LANDRACE_LANES 0
#include "kernel_table.inl"
