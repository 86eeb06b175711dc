// Checkpoint blocks into the layout that the kernels read.
#pragma once

#include "types.h"

namespace landrace {

/// Bytes of one stored row of `n_in` values.
size_t stored_row_bytes(Kind kind, int n_in);

/// Packs tiles [first_tile, end_tile) of `matrix` from rows as the file stores them, without loss. `to` is the matrix's
/// memory; what is no output of the matrix becomes zero.
void pack(const Matrix& matrix, const uint8_t* stored, uint8_t* to, int first_tile, int end_tile);

}  // namespace landrace
