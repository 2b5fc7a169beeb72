// Eight floats side by side in plain C++, for any processor: slow, and bit for bit what lanes_avx2.h computes.

#pragma once

#include <cmath>
#include <cstring>

namespace gorae::GORAE_SET {

struct Lanes {
    float value[8];
};

template <class Function>
inline Lanes each_lane(Function function) {
    Lanes result;
    for (int i = 0; i < 8; ++i) result.value[i] = function(i);
    return result;
}

inline Lanes zero() { return {}; }
inline Lanes broadcast(float number) {
    return each_lane([&](int) { return number; });
}
inline Lanes load(const float* from) {
    return each_lane([&](int i) { return from[i]; });
}
inline void store(float* to, Lanes a) { std::memcpy(to, a.value, sizeof a.value); }
inline Lanes operator+(Lanes a, Lanes b) {
    return each_lane([&](int i) { return a.value[i] + b.value[i]; });
}
inline Lanes operator-(Lanes a, Lanes b) {
    return each_lane([&](int i) { return a.value[i] - b.value[i]; });
}
inline Lanes operator*(Lanes a, Lanes b) {
    return each_lane([&](int i) { return a.value[i] * b.value[i]; });
}
inline Lanes operator/(Lanes a, Lanes b) {
    return each_lane([&](int i) { return a.value[i] / b.value[i]; });
}
inline Lanes fused(Lanes a, Lanes b, Lanes c) {
    return each_lane([&](int i) { return std::fma(a.value[i], b.value[i], c.value[i]); });
}

inline Lanes lesser(Lanes bound, Lanes a) {
    return each_lane([&](int i) { return bound.value[i] < a.value[i] ? bound.value[i] : a.value[i]; });
}
inline Lanes greater(Lanes bound, Lanes a) {
    return each_lane([&](int i) { return bound.value[i] > a.value[i] ? bound.value[i] : a.value[i]; });
}
inline Lanes power_of_two(Lanes n) {
    return each_lane([&](int i) {
        if (!(n.value[i] >= -126.0f && n.value[i] <= 127.0f)) return n.value[i];  // no number
        std::uint32_t bits = static_cast<std::uint32_t>(static_cast<int>(n.value[i]) + 127) << 23;
        float power;
        std::memcpy(&power, &bits, sizeof power);
        return power;
    });
}

inline float widened(float number) { return number; }
inline float widened(Bfloat16 number) {
    std::uint32_t bits = std::uint32_t{number.bits} << 16;
    float wide;
    std::memcpy(&wide, &bits, sizeof wide);
    return wide;
}

inline float widened(Float8 number) {
    if ((number.bits & 0x7f) == 0x7f) return NAN;
    const int exponent = number.bits >> 3 & 15, mantissa = number.bits & 7;
    const float size = exponent ? std::ldexp(8.0f + mantissa, exponent - 10) : std::ldexp(float(mantissa), -9);
    return number.bits & 0x80 ? -size : size;
}

inline void load_halves(const Bfloat16* from, Lanes& left, Lanes& right) {
    left = each_lane([&](int i) { return widened(from[2 * i]); });
    right = each_lane([&](int i) { return widened(from[2 * i + 1]); });
}

inline Lanes load(const RowByte* from) {
    return each_lane([&](int i) { return static_cast<float>(from[i].number); });
}
inline Lanes load(const Bfloat16* from) {
    return each_lane([&](int i) { return widened(from[i]); });
}

inline float tree_sum(const float* a) { return ((a[0] + a[1]) + (a[2] + a[3])) + ((a[4] + a[5]) + (a[6] + a[7])); }
inline void store_sums(float* to, Lanes a, Lanes b, Lanes c, Lanes d) {
    to[0] = tree_sum(a.value), to[1] = tree_sum(b.value), to[2] = tree_sum(c.value), to[3] = tree_sum(d.value);
}

template <class Number>
inline void load_columns(const Number* const rows[8], long first, Lanes columns[8]) {
    for (int j = 0; j < 8; ++j) columns[j] = each_lane([&](int i) { return widened(rows[i][first + j]); });
}

}  // namespace gorae::GORAE_SET
