// Rows of int8 by panels of 4 or 8 bits with AVX-512 VNNI: one instruction adds four products to each of 16 outputs.
//
// It multiplies numbers without a sign by numbers with one. So those of a panel are read as they are stored at 4 bits,
// with 8 added, and with 128 added at 8 bits; the sums begin with what that is too much, which the strip holds.

#pragma once

#include <immintrin.h>

#include "ahead.h"
#include "strips.h"

namespace gorae::GORAE_SET {

constexpr int STRIP = 12;  // most rows of a strip: sums and totals fill 24 of 32 registers

constexpr int unsigned_by(int bits) { return bits == 4 ? 8 : 128; }

// Round 32 numbers within ±127 to the nearest integers, the even one of two; their sum is returned.
inline int to_bytes(const Lanes numbers[4], std::int8_t* bytes) {
    __m512i low = _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_cvtps_epi32(numbers[0].value)),
                                     _mm256_cvtps_epi32(numbers[1].value), 1);
    __m512i high = _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_cvtps_epi32(numbers[2].value)),
                                      _mm256_cvtps_epi32(numbers[3].value), 1);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(bytes), _mm512_cvtsepi32_epi8(low));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(bytes + 16), _mm512_cvtsepi32_epi8(high));
    return _mm512_reduce_add_epi32(_mm512_add_epi32(low, high));
}

// Quads j and j + 4 of a group at 4 bits, or quads 2j and 2j + 1 at 8 bits, without a sign.
template <int BITS>
inline void load_quads(const std::uint8_t* group, int j, __m512i& first, __m512i& second) {
    if (BITS == 4) {
        const __m512i both = _mm512_loadu_si512(group + 64 * j), lower = _mm512_set1_epi8(15);
        first = _mm512_and_si512(both, lower);
        second = _mm512_and_si512(_mm512_srli_epi16(both, 4), lower);
    } else {
        const __m512i sign = _mm512_set1_epi8(-128);
        first = _mm512_xor_si512(_mm512_loadu_si512(group + 128 * j), sign);
        second = _mm512_xor_si512(_mm512_loadu_si512(group + 128 * j + 64), sign);
    }
}

inline __m512i four_bytes(const std::uint8_t* from) {
    int word;
    std::memcpy(&word, from, sizeof word);
    return _mm512_set1_epi32(word);
}

inline __m512 one_float(const std::uint8_t* from) {
    float number;
    std::memcpy(&number, from, sizeof number);
    return _mm512_set1_ps(number);
}

// ROWS rows by one panel: 16 results a row, rows y_stride apart.
template <int BITS, int ROWS>
inline void dots_panel(const std::uint8_t* strip, const std::uint8_t* panel, long blocks, float* y, long y_stride) {
    constexpr long GROUP_BYTES = group_bytes(BITS), BLOCK_BYTES = block_bytes(BITS);
    __m512 total[ROWS];
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; ++r) total[r] = _mm512_setzero_ps();
    for (long block = 0; block < blocks; ++block, panel += BLOCK_BYTES) {
        ask_ahead<BLOCK_BYTES>(panel);
#pragma GCC unroll 2
        for (int g = 0; g < 2; ++g, strip += ROWS * ROUNDED_BYTES) {
            const std::uint8_t* inputs = strip + ROWS * 8;
            __m512i sum[ROWS];
#pragma GCC unroll 16
            for (int r = 0; r < ROWS; ++r) sum[r] = four_bytes(strip + (ROWS + r) * 4);
#pragma GCC unroll 4
            for (int j = 0; j < 4; ++j) {
                const int one = BITS == 4 ? j : 2 * j, other = BITS == 4 ? j + 4 : 2 * j + 1;
                __m512i first, second;
                load_quads<BITS>(panel + SCALE_BYTES + g * GROUP_BYTES, j, first, second);
#pragma GCC unroll 16
                for (int r = 0; r < ROWS; ++r)
                    sum[r] = _mm512_dpbusd_epi32(sum[r], first, four_bytes(inputs + (one * ROWS + r) * 4));
#pragma GCC unroll 16
                for (int r = 0; r < ROWS; ++r)
                    sum[r] = _mm512_dpbusd_epi32(sum[r], second, four_bytes(inputs + (other * ROWS + r) * 4));
            }
            const __m512 scales =
                _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(panel + g * 32)));
#pragma GCC unroll 16
            for (int r = 0; r < ROWS; ++r)
                total[r] = _mm512_fmadd_ps(_mm512_mul_ps(scales, one_float(strip + r * 4)), _mm512_cvtepi32_ps(sum[r]),
                                           total[r]);
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; ++r) _mm512_storeu_ps(y + r * y_stride, total[r]);
}

// `rounds` times 12 · 64 products with nothing else to do.
inline int products_of_bytes(long rounds) {
    __m512i sum[12], left = _mm512_set1_epi8(3);
    const __m512i right = _mm512_set1_epi8(-1);
    for (int j = 0; j < 12; ++j) sum[j] = _mm512_set1_epi32(j);
    for (long round = 0; round < rounds; ++round, left = _mm512_xor_si512(left, right))
#pragma GCC unroll 12
        for (int j = 0; j < 12; ++j) sum[j] = _mm512_dpbusd_epi32(sum[j], left, right);
    for (int j = 1; j < 12; ++j) sum[0] = _mm512_add_epi32(sum[0], sum[j]);
    return _mm512_reduce_add_epi32(sum[0]);
}

}  // namespace gorae::GORAE_SET
