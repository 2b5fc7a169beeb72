// Rows of int8 by panels of 4 or 8 bits with AVX2: pairs of products in 16 bits, four in 32, eight outputs at a time.
//
// The instruction multiplies numbers without a sign by numbers with one. At 4 bits those of a panel are read as they
// are stored, with 8 added: a group's pairs stay below 2^15 and are added in 16 bits; the sums are then given back what
// is too much, which the strip holds. At 8 bits a magnitude is multiplied by the input with the number's sign, and each
// pair widened at once, which halves the rate.

#pragma once

#include <immintrin.h>

#include "ahead.h"
#include "strips.h"

namespace gorae::GORAE_SET {

constexpr int STRIP = 6;  // most rows of a strip: sums and totals of eight outputs fill 12 of 16 registers

constexpr int unsigned_by(int bits) { return bits == 4 ? 8 : 0; }

// Round 32 numbers within ±127 to the nearest integers, the even one of two; their sum is returned.
inline int to_bytes(const Lanes numbers[4], std::int8_t* bytes) {
    __m256i whole[4];
    for (int i = 0; i < 4; ++i) whole[i] = _mm256_cvtps_epi32(numbers[i].value);
    const __m256i low = _mm256_packs_epi32(whole[0], whole[1]), high = _mm256_packs_epi32(whole[2], whole[3]);
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);  // packing goes half by half
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(bytes),
                        _mm256_permutevar8x32_epi32(_mm256_packs_epi16(low, high), order));
    const __m256i sums = _mm256_madd_epi16(_mm256_add_epi16(low, high), _mm256_set1_epi16(1));
    __m128i sum = _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1));
    sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0x4e));
    sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0xb1));
    return _mm_cvtsi128_si32(sum);
}

inline __m256i load_bytes(const std::uint8_t* from) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
}

inline __m256i four_bytes(const std::uint8_t* from) {
    int word;
    std::memcpy(&word, from, sizeof word);
    return _mm256_set1_epi32(word);
}

inline __m256 one_float(const std::uint8_t* from) {
    float number;
    std::memcpy(&number, from, sizeof number);
    return _mm256_set1_ps(number);
}

// The sums of ROWS rows of a group by eight outputs, whose bytes begin at `numbers` and go on every 64.
template <int ROWS>
inline void group_of_4_bits(const std::uint8_t* strip, const std::uint8_t* numbers, __m256i sum[ROWS]) {
    const __m256i lower = _mm256_set1_epi8(15);
    const std::uint8_t* inputs = strip + ROWS * 8;
    __m256i pairs[ROWS];
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
        const __m256i both = load_bytes(numbers + 64 * j), first = _mm256_and_si256(both, lower);
        const __m256i second = _mm256_and_si256(_mm256_srli_epi16(both, 4), lower);
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; ++r) {
            const __m256i products = _mm256_maddubs_epi16(first, four_bytes(inputs + (j * ROWS + r) * 4));
            pairs[r] = j == 0 ? products : _mm256_add_epi16(pairs[r], products);
        }
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; ++r)
            pairs[r] = _mm256_add_epi16(
                pairs[r], _mm256_maddubs_epi16(second, four_bytes(inputs + ((j + 4) * ROWS + r) * 4)));
    }
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r)
        sum[r] = _mm256_add_epi32(_mm256_madd_epi16(pairs[r], _mm256_set1_epi16(1)),
                                  four_bytes(strip + ROWS * 4 + r * 4));
}

template <int ROWS>
inline void group_of_8_bits(const std::uint8_t* strip, const std::uint8_t* numbers, __m256i sum[ROWS]) {
    const std::uint8_t* inputs = strip + ROWS * 8;
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r) sum[r] = _mm256_setzero_si256();
#pragma GCC unroll 8
    for (int j = 0; j < 8; ++j) {
        const __m256i signed_ones = load_bytes(numbers + 64 * j), magnitudes = _mm256_abs_epi8(signed_ones);
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; ++r) {
            const __m256i turned = _mm256_sign_epi8(four_bytes(inputs + (j * ROWS + r) * 4), signed_ones);
            const __m256i pairs = _mm256_maddubs_epi16(magnitudes, turned);
            sum[r] = _mm256_add_epi32(sum[r], _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
        }
    }
}

// ROWS rows by halves FIRST to LAST of a panel, eight outputs each.
template <int BITS, int ROWS, int FIRST, int LAST>
inline void dots_halves(const std::uint8_t* strip, const std::uint8_t* panel, long blocks, float* y, long y_stride) {
    constexpr long GROUP_BYTES = group_bytes(BITS), BLOCK_BYTES = block_bytes(BITS);
    __m256 total[2][ROWS];
#pragma GCC unroll 2
    for (int half = FIRST; half < LAST; ++half)
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; ++r) total[half][r] = _mm256_setzero_ps();
    for (long block = 0; block < blocks; ++block, panel += BLOCK_BYTES) {
        if (FIRST == 0) ask_ahead<BLOCK_BYTES>(panel);
#pragma GCC unroll 2
        for (int g = 0; g < 2; ++g, strip += ROWS * ROUNDED_BYTES)
#pragma GCC unroll 2
            for (int half = FIRST; half < LAST; ++half) {
                const std::uint8_t* numbers = panel + SCALE_BYTES + g * GROUP_BYTES + half * 32;
                __m256i sum[ROWS];
                if (BITS == 4)
                    group_of_4_bits<ROWS>(strip, numbers, sum);
                else
                    group_of_8_bits<ROWS>(strip, numbers, sum);
                const __m256 scales = _mm256_cvtph_ps(
                    _mm_loadu_si128(reinterpret_cast<const __m128i*>(panel + g * 32 + half * 16)));
#pragma GCC unroll 8
                for (int r = 0; r < ROWS; ++r)
                    total[half][r] = _mm256_fmadd_ps(_mm256_mul_ps(scales, one_float(strip + r * 4)),
                                                     _mm256_cvtepi32_ps(sum[r]), total[half][r]);
            }
    }
#pragma GCC unroll 2
    for (int half = FIRST; half < LAST; ++half)
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; ++r) _mm256_storeu_ps(y + r * y_stride + half * 8, total[half][r]);
}

// ROWS rows by one panel: 16 results a row, rows y_stride apart. More than three rows take its halves in turn, since the
// registers do not hold the sums of both; the panel stays in the first cache.
template <int BITS, int ROWS>
inline void dots_panel(const std::uint8_t* strip, const std::uint8_t* panel, long blocks, float* y, long y_stride) {
    if constexpr (ROWS <= 3) {
        dots_halves<BITS, ROWS, 0, 2>(strip, panel, blocks, y, y_stride);
    } else {
        dots_halves<BITS, ROWS, 0, 1>(strip, panel, blocks, y, y_stride);
        dots_halves<BITS, ROWS, 1, 2>(strip, panel, blocks, y, y_stride);
    }
}

// `rounds` times 12 · 64 products with nothing else to do.
inline int products_of_bytes(long rounds) {
    __m256i sum[12], left = _mm256_set1_epi8(3);
    const __m256i ones = _mm256_set1_epi8(-1), one = _mm256_set1_epi8(1);
    for (int j = 0; j < 12; ++j) sum[j] = _mm256_set1_epi16(static_cast<short>(j));
    for (long round = 0; round < 2 * rounds; ++round, left = _mm256_xor_si256(left, ones))
#pragma GCC unroll 12
        for (int j = 0; j < 12; ++j) {
            __m256i right = one;
            asm volatile("" : "+x"(right));  // or the compiler makes one product of twelve
            sum[j] = _mm256_add_epi16(sum[j], _mm256_maddubs_epi16(left, right));
        }
    for (int j = 1; j < 12; ++j) sum[0] = _mm256_add_epi16(sum[0], sum[j]);
    return _mm256_extract_epi16(sum[0], 0);
}

}  // namespace gorae::GORAE_SET
