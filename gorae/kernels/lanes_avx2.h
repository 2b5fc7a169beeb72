// Eight floats side by side in an AVX2 register. Every operation rounds once, to nearest, as lanes_portable.h does.

#pragma once

#include <immintrin.h>

namespace gorae::GORAE_SET {

struct Lanes {
    __m256 value;
};

inline Lanes zero() { return {_mm256_setzero_ps()}; }
inline Lanes broadcast(float number) { return {_mm256_set1_ps(number)}; }
inline Lanes load(const float* from) { return {_mm256_loadu_ps(from)}; }
inline Lanes load(const Bfloat16* from) {
    __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
    return {_mm256_castsi256_ps(_mm256_slli_epi32(wide, 16))};
}
inline Lanes load(const RowByte* from) {
    const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(from));
    return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes))};
}
inline void store(float* to, Lanes a) { _mm256_storeu_ps(to, a.value); }
inline Lanes operator+(Lanes a, Lanes b) { return {_mm256_add_ps(a.value, b.value)}; }
inline Lanes operator-(Lanes a, Lanes b) { return {_mm256_sub_ps(a.value, b.value)}; }
inline Lanes operator*(Lanes a, Lanes b) { return {_mm256_mul_ps(a.value, b.value)}; }
inline Lanes operator/(Lanes a, Lanes b) { return {_mm256_div_ps(a.value, b.value)}; }

// a · b + c, rounded once
inline Lanes fused(Lanes a, Lanes b, Lanes c) { return {_mm256_fmadd_ps(a.value, b.value, c.value)}; }

// Of a bound and numbers, lane by lane; what is no number stays so.
inline Lanes lesser(Lanes bound, Lanes a) { return {_mm256_min_ps(bound.value, a.value)}; }
inline Lanes greater(Lanes bound, Lanes a) { return {_mm256_max_ps(bound.value, a.value)}; }

// 2^n of integers n from -126 to 127
inline Lanes power_of_two(Lanes n) {
    __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n.value), _mm256_set1_epi32(127));
    return {_mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23))};
}

// The sums of four, each ((0 + 1) + (2 + 3)) + ((4 + 5) + (6 + 7)) of its lanes, side by side.
inline void store_sums(float* to, Lanes a, Lanes b, Lanes c, Lanes d) {
    __m256 ab = _mm256_hadd_ps(a.value, b.value), cd = _mm256_hadd_ps(c.value, d.value);
    __m256 halves = _mm256_hadd_ps(ab, cd);
    _mm_storeu_ps(to, _mm_add_ps(_mm256_castps256_ps128(halves), _mm256_extractf128_ps(halves, 1)));
}

// Rows i and i + 4 of a block of eight rows and eight columns, as {row i, row i + 4} of columns 0-3 and of 4-7.
inline void load_two_rows(const float* upper, const float* lower, __m256& left, __m256& right) {
    left = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(upper)), _mm_loadu_ps(lower), 1);
    right = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(upper + 4)), _mm_loadu_ps(lower + 4), 1);
}

inline void load_two_rows(const Bfloat16* upper, const Bfloat16* lower, __m256& left, __m256& right) {
    __m128i first = _mm_loadu_si128(reinterpret_cast<const __m128i*>(upper));
    __m128i second = _mm_loadu_si128(reinterpret_cast<const __m128i*>(lower));
    __m256i both = _mm256_inserti128_si256(_mm256_castsi128_si256(first), second, 1);
    left = _mm256_castsi256_ps(_mm256_unpacklo_epi16(_mm256_setzero_si256(), both));
    right = _mm256_castsi256_ps(_mm256_unpackhi_epi16(_mm256_setzero_si256(), both));
}

// Eight columns of eight rows from column `first` on: lane i of columns[j] is number first + j of row i.
template <class Number>
inline void load_columns(const Number* const rows[8], long first, Lanes columns[8]) {
    __m256 left[4], right[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) load_two_rows(rows[i] + first, rows[i + 4] + first, left[i], right[i]);
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
        const __m256* part = half ? right : left;
        __m256d low01 = _mm256_castps_pd(_mm256_unpacklo_ps(part[0], part[1]));
        __m256d low23 = _mm256_castps_pd(_mm256_unpacklo_ps(part[2], part[3]));
        __m256d high01 = _mm256_castps_pd(_mm256_unpackhi_ps(part[0], part[1]));
        __m256d high23 = _mm256_castps_pd(_mm256_unpackhi_ps(part[2], part[3]));
        Lanes* out = columns + 4 * half;
        out[0].value = _mm256_castpd_ps(_mm256_unpacklo_pd(low01, low23));
        out[1].value = _mm256_castpd_ps(_mm256_unpackhi_pd(low01, low23));
        out[2].value = _mm256_castpd_ps(_mm256_unpacklo_pd(high01, high23));
        out[3].value = _mm256_castpd_ps(_mm256_unpackhi_pd(high01, high23));
    }
}

// Sixteen bfloat16 of a panel: numbers 0 to 7 lie in the lower halves of 32 bits, 8 to 15 in the upper ones.
inline void load_halves(const Bfloat16* from, Lanes& left, Lanes& right) {
    const __m256i both = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
    left.value = _mm256_castsi256_ps(_mm256_slli_epi32(both, 16));
    right.value = _mm256_castsi256_ps(_mm256_and_si256(both, _mm256_set1_epi32(static_cast<int>(0xffff0000))));
}

// Eight and eight float8: as float16 they stand for 2^-8 of their values, and only NaN has to be made.
inline void widen(__m128i float8, Lanes& first, Lanes& second) {
    const __m256i magnitude = _mm256_set1_epi16(0x3f80);
    const __m256i wide = _mm256_slli_epi16(_mm256_cvtepi8_epi16(float8), 7);
    const __m256i is_nan = _mm256_cmpeq_epi16(_mm256_and_si256(wide, magnitude), magnitude);
    const __m256i kept = _mm256_and_si256(wide, _mm256_set1_epi16(static_cast<short>(0xbf80)));
    const __m256i halves = _mm256_or_si256(kept, _mm256_and_si256(is_nan, _mm256_set1_epi16(0x7e00)));
    const __m256 factor = _mm256_set1_ps(256.0f);
    first.value = _mm256_mul_ps(_mm256_cvtph_ps(_mm256_castsi256_si128(halves)), factor);
    second.value = _mm256_mul_ps(_mm256_cvtph_ps(_mm256_extracti128_si256(halves, 1)), factor);
}

// As above, for eight columns of eight rows of float8.
inline void load_columns(const Float8* const rows[8], long first, Lanes columns[8]) {
    __m128i pairs[4], low[2], high[2];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i)
        pairs[i] = _mm_unpacklo_epi8(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(rows[2 * i] + first)),
                                     _mm_loadl_epi64(reinterpret_cast<const __m128i*>(rows[2 * i + 1] + first)));
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i) {  // four rows of columns 0-3, and of 4-7
        low[i] = _mm_unpacklo_epi16(pairs[2 * i], pairs[2 * i + 1]);
        high[i] = _mm_unpackhi_epi16(pairs[2 * i], pairs[2 * i + 1]);
    }
    widen(_mm_unpacklo_epi32(low[0], low[1]), columns[0], columns[1]);
    widen(_mm_unpackhi_epi32(low[0], low[1]), columns[2], columns[3]);
    widen(_mm_unpacklo_epi32(high[0], high[1]), columns[4], columns[5]);
    widen(_mm_unpackhi_epi32(high[0], high[1]), columns[6], columns[7]);
}

}  // namespace gorae::GORAE_SET
