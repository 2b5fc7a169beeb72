// 1 / (1 + exp(-x)), eight elements at a time, the last ones by the same instructions.

#pragma once

#include "../exponential.h"
#include "../parts.h"
#include "../threads.h"

namespace gorae::GORAE_SET {

inline void sigmoid(const float* x, float* y, long count, int threads) {
    share(blocks_of(count, ELEMENTS), threads, [&](long task) {
        const long first = task * ELEMENTS;
        map(x + first, y + first, least(ELEMENTS, count - first), logistic);
    });
}

}  // namespace gorae::GORAE_SET
