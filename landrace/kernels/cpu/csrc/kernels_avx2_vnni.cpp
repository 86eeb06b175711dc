#define LANDRACE_ISA avx2_vnni
#define LANDRACE_LANES 256
#include "operations.inl"
