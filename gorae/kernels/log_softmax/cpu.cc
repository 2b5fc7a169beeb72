// x - max(x) - log Σ exp(x - max(x)), row by row. Threads share rows; bound by the exponentials, and by bytes where a
// row is longer than the second cache holds.

#pragma once

#include "../softmax.h"
#include "../threads.h"

namespace gorae::GORAE_SET {

inline void log_softmax(Matrix<const float> x, Matrix<float> y, int threads) {
    if (x.rows * x.columns < ELEMENTS) threads = 1;
    share(x.rows, threads, [&](long row) {
        const float top = largest_of(x.row(row), x.columns);
        const double total = sum_of_exponentials(x.row(row), x.columns, top, [](long, Lanes) {});
        const Lanes highest = broadcast(top), log_total = broadcast(static_cast<float>(std::log(total)));
        map(x.row(row), y.row(row), x.columns, [&](Lanes some) { return some - highest - log_total; });
    });
}

}  // namespace gorae::GORAE_SET
