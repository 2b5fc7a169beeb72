// Rows of int8 by panels of 4 or 8 bits in plain C++, for any processor: the definition of what integers_avx2.h and
// integers_avx512.h compute, bit for bit. Lanes have been included before.

#pragma once

#include "strips.h"

namespace gorae::GORAE_SET {

constexpr int STRIP = 4;  // most rows of a strip

// What is added to the numbers of a panel to be read without a sign; the sums make up for it.
constexpr int unsigned_by(int) { return 0; }

// Round 32 numbers within ±127 to the nearest integers, the even one of two; their sum is returned.
inline int to_bytes(const Lanes numbers[4], std::int8_t* bytes) {
    int sum = 0;
    float each[GROUP];
    for (int i = 0; i < 4; ++i) store(each + 8 * i, numbers[i]);
    for (int i = 0; i < GROUP; ++i) {
        const float number = each[i];
        bytes[i] = number == number ? static_cast<std::int8_t>(std::nearbyint(number)) : 0;
        sum += bytes[i];
    }
    return sum;
}

inline float widened(Half number) {
    const std::uint32_t sign = (number.bits & 0x8000u) << 16, rest = number.bits & 0x7fffu;
    if (rest < 0x0400u) return (sign ? -1.0f : 1.0f) * static_cast<float>(rest) * 0x1p-24f;
    const std::uint32_t bits = sign | (rest >= 0x7c00u ? 0x7f800000u | rest << 13 : (rest << 13) + (112u << 23));
    float wide;
    std::memcpy(&wide, &bits, sizeof wide);
    return wide;
}

// Number `place` of quad `quad` of an output, from the bytes of a group.
template <int BITS>
inline int number_at(const std::uint8_t* group, int quad, int output, int place) {
    const int index = (quad * 16 + output) * 4 + place;
    if (BITS == 8) return static_cast<std::int8_t>(group[index]);
    return (quad < 4 ? group[index] & 15 : group[index - 256] >> 4) - 8;
}

// ROWS rows by one panel: 16 results a row, rows y_stride apart.
template <int BITS, int ROWS>
void dots_panel(const std::uint8_t* strip, const std::uint8_t* panel, long blocks, float* y, long y_stride) {
    constexpr long GROUP_BYTES = group_bytes(BITS), BLOCK_BYTES = block_bytes(BITS);
    for (int row = 0; row < ROWS; ++row) {
        Lanes total[2] = {zero(), zero()};
        for (long group = 0; group < 2 * blocks; ++group) {
            const std::uint8_t* block = panel + group / 2 * BLOCK_BYTES;
            const std::uint8_t* numbers = block + SCALE_BYTES + group % 2 * GROUP_BYTES;
            const std::uint8_t* inputs = strip + group * ROWS * ROUNDED_BYTES;
            float scale, weight_scales[16], sums[16];
            std::memcpy(&scale, inputs + row * 4, 4);
            for (int output = 0; output < 16; ++output) {
                Half half;
                std::memcpy(&half, block + group % 2 * 32 + output * 2, 2);
                weight_scales[output] = widened(half);
                int sum = 0;
                for (int i = 0; i < GROUP; ++i)
                    sum += number_at<BITS>(numbers, i / 4, output, i % 4) *
                           static_cast<std::int8_t>(inputs[ROWS * 8 + (i / 4 * ROWS + row) * 4 + i % 4]);
                sums[output] = static_cast<float>(sum);
            }
            for (int half = 0; half < 2; ++half)
                total[half] =
                    fused(load(weight_scales + 8 * half) * broadcast(scale), load(sums + 8 * half), total[half]);
        }
        store(y + row * y_stride, total[0]);
        store(y + row * y_stride + 8, total[1]);
    }
}

// `rounds` times 12 · 64 products with nothing else to do.
inline int products_of_bytes(long rounds) {
    int sum[12] = {};
    for (long i = 0; i < rounds * 12 * 64; ++i) sum[i % 12] += static_cast<std::int8_t>(i) * (sum[i % 12] & 1);
    for (int j = 1; j < 12; ++j) sum[0] += sum[j];
    return sum[0];
}

}  // namespace gorae::GORAE_SET
