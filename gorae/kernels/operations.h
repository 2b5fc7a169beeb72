// What the compiled kernels offer, once an instruction set. Matrices are rows of contiguous numbers, `stride` apart.
// Strides and sizes count numbers, not bytes.

#pragma once

#include <cstddef>
#include <cstdint>

#ifdef __FAST_MATH__
#error "Gorae's sums must keep their order: compile without -ffast-math"
#endif

namespace gorae {

struct Bfloat16 {
    std::uint16_t bits;
};

template <class Number>
struct Matrix {
    Number* numbers;
    long rows, columns, stride;

    Number* row(long index) const { return numbers + index * stride; }
};

struct Operations {
    // y [M, N] = x [M, K] weight [N, K] transposed
    void (*linear_float32)(Matrix<const float> x, Matrix<const float> weight, Matrix<float> y, int threads);
    void (*linear_bfloat16)(Matrix<const float> x, Matrix<const Bfloat16> weight, Matrix<float> y, int threads);
};

extern const Operations portable_operations;
#ifdef __x86_64__
extern const Operations avx2_operations;
#endif

// Memory of the calling thread that stays until the next call asks for more; aligned to a cache line.
float* scratch(std::size_t floats);

}  // namespace gorae
