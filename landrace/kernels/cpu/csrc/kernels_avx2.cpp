#define LANDRACE_ISA avx2
#define LANDRACE_LANES 256
#include "operations.inl"
