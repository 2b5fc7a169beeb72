// The ends of rows, where fewer than eight numbers are left, and counting in blocks.

#pragma once

namespace gorae::GORAE_SET {

constexpr long BLOCK = 256;      // numbers in a chain of a sum
constexpr long ELEMENTS = 4096;  // numbers in a task that computes them one by one

inline long least(long a, long b) { return a < b ? a : b; }
inline long blocks_of(long size, long block) { return (size + block - 1) / block; }

// The first `count` of eight numbers, and zeros.
inline Lanes load_some(const float* from, long count) {
    if (count >= 8) return load(from);
    float copy[8] = {};
    std::memcpy(copy, from, count * sizeof(float));
    return load(copy);
}

inline void store_some(float* to, Lanes a, long count) {
    if (count >= 8) return store(to, a);
    float copy[8];
    store(copy, a);
    std::memcpy(to, copy, count * sizeof(float));
}

inline float sum_of(Lanes a) {
    float each[8], sum = 0.0f;
    store(each, a);
    for (float number : each) sum += number;
    return sum;
}

// to[i] = function(from[i]), whose bits do not depend on i
template <class Function>
inline void map(const float* from, float* to, long count, const Function& function) {
    for (long i = 0; i < count; i += 8) store_some(to + i, function(load_some(from + i, count - i)), count - i);
}

template <class Function>
inline void map(const float* left, const float* right, float* to, long count, const Function& function) {
    for (long i = 0; i < count; i += 8)
        store_some(to + i, function(load_some(left + i, count - i), load_some(right + i, count - i)), count - i);
}

}  // namespace gorae::GORAE_SET
