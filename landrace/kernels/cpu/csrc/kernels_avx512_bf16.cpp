#define LANDRACE_ISA avx512_bf16
#define LANDRACE_ISA_NAME "avx512_bf16"
#define LANDRACE_LANES 512
#include "kernel_table.inl"
