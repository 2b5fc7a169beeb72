// x / sqrt(mean(x²) + eps) · weight, row by row: squares are summed in eight lanes over blocks of 256, blocks in order.

#pragma once

#include "../parts.h"
#include "../threads.h"

namespace gorae::GORAE_SET {

// inverse[row] = 1 / sqrt(mean(x²) + eps)
inline void rms_norm(Matrix<const float> x, const float* weight, float eps, Matrix<float> y, float* inverse,
                     int threads) {
    constexpr long ROWS = 16;  // a task's
    if (x.rows * x.columns < ELEMENTS) threads = 1;
    share(blocks_of(x.rows, ROWS), threads, [&](long task) {
        for (long row = task * ROWS; row < least((task + 1) * ROWS, x.rows); ++row) {
            const float* from = x.row(row);
            Lanes total = zero();
            for (long start = 0; start < x.columns; start += BLOCK) {
                Lanes sum = zero();
                for (long column = start; column < least(start + BLOCK, x.columns); column += 8) {
                    const Lanes some = load_some(from + column, x.columns - column);
                    sum = fused(some, some, sum);
                }
                total = total + sum;
            }
            inverse[row] = 1.0f / std::sqrt(sum_of(total) / static_cast<float>(x.columns) + eps);
            const Lanes factor = broadcast(inverse[row]);
            map(from, weight, y.row(row), x.columns, [&](Lanes a, Lanes gain) { return a * factor * gain; });
        }
    });
}

}  // namespace gorae::GORAE_SET
