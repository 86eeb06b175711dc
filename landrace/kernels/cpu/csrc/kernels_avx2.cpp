#define LANDRACE_ISA avx2
#define LANDRACE_ISA_NAME "avx2"
#define LANDRACE_LANES 256
#include "kernel_table.inl"
