// What a softmax sums: exponentials below the row's largest number, in eight lanes over blocks of 256, blocks in order.

#pragma once

#include "exponential.h"
#include "parts.h"

namespace gorae::GORAE_SET {

// The first `count` of eight numbers, and what adds nothing.
inline Lanes load_or_least(const float* from, long count) {
    if (count >= 8) return load(from);
    float copy[8];
    std::fill_n(copy, 8, -INFINITY);
    std::memcpy(copy, from, count * sizeof(float));
    return load(copy);
}

inline float largest_of(const float* x, long count) {
    Lanes best = broadcast(-INFINITY);
    for (long i = 0; i < count; i += 8) best = greater(best, load_or_least(x + i, count - i));
    float each[8];
    store(each, best);
    return *std::max_element(each, each + 8);
}

// Σ exp(x - top); keep(i, the eight exponentials from number i on)
template <class Keep>
inline float sum_of_exponentials(const float* x, long count, float top, const Keep& keep) {
    Lanes total = zero();
    for (long start = 0; start < count; start += BLOCK) {
        Lanes sum = zero();
        for (long i = start; i < least(start + BLOCK, count); i += 8) {
            const Lanes share = exponential(load_or_least(x + i, count - i) - broadcast(top));
            keep(i, share);
            sum = sum + share;
        }
        total = total + sum;
    }
    return sum_of(total);
}

}  // namespace gorae::GORAE_SET
