#define LANDRACE_ISA avx512_bf16
#define LANDRACE_LANES 512
#include "operations.inl"
