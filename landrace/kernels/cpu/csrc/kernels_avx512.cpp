#define LANDRACE_ISA avx512
#define LANDRACE_LANES 512
#include "operations.inl"
