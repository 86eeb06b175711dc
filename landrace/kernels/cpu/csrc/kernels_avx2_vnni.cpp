#define LANDRACE_ISA avx2_vnni
#define LANDRACE_ISA_NAME "avx2_vnni"
#define LANDRACE_LANES 256
#include "kernel_table.inl"
