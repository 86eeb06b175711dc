#define LANDRACE_ISA avx512
#define LANDRACE_ISA_NAME "avx512"
#define LANDRACE_LANES 512
#include "kernel_table.inl"
