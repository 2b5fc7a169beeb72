// Rows of float32 in groups of 32 int8 behind a bfloat16 scale each, as __init__.py says. Nothing is summed; threads take
// rows, and a row's bytes follow from the row alone. Bound by reading it: a token's row or some, beside what attention
// reads of all tokens before.

#pragma once

#include "../linear/quantised.cc"
#include "../parts.h"
#include "../threads.h"

namespace gorae::GORAE_SET {

constexpr long ROW_SCALE_BYTES = sizeof(Bfloat16);
inline long row_bytes(long width) { return width + ROW_SCALE_BYTES * blocks_of(width, GROUP); }

inline float scale_at(const void* group) {
    std::uint16_t held;
    std::memcpy(&held, group, sizeof held);
    const std::uint32_t bits = std::uint32_t{held} << 16;
    float scale;
    std::memcpy(&scale, &bits, sizeof scale);
    return scale;
}

inline void byte_group(const float* x, long count, std::int8_t* y) {
    Lanes numbers[4], largest = zero();
    for (int i = 0; i < 4; ++i) {
        numbers[i] = 8 * i < count ? load_some(x + 8 * i, count - 8 * i) : zero();
        largest = greater(magnitude(numbers[i]), largest);
    }
    // 0, or no number where one of x is none or infinite
    largest = largest + ((numbers[0] - numbers[0]) + (numbers[1] - numbers[1]) +
                         ((numbers[2] - numbers[2]) + (numbers[3] - numbers[3])));
    const float exact = largest_of(largest) / 127.0f;
    const Bfloat16 held = nearest_bfloat16(exact);
    std::memcpy(y, &held, ROW_SCALE_BYTES);
    std::int8_t bytes[GROUP] = {};
    if (exact == exact) {
        const float inverse = 1.0f / scale_at(y);
        const Lanes factor = broadcast(inverse < HUGE_VALF ? inverse : 0.0f);
        // a scale that is all but 0 may have been rounded down by more than half a step of 127
        for (Lanes& one : numbers) one = lesser(broadcast(127.0f), greater(broadcast(-127.0f), one * factor));
        to_bytes(numbers, bytes);
    }
    std::memcpy(y + ROW_SCALE_BYTES, bytes, least(count, GROUP));
}

inline void byte_rows(Matrix<const float> x, std::int8_t* y, int threads) {
    constexpr long ROWS = 16;  // a task's
    if (x.rows * x.columns < LEAST_TO_ROUND) threads = 1;
    const long stride = row_bytes(x.columns);
    share(blocks_of(x.rows, ROWS), threads, [&](long task) {
        for (long row = task * ROWS; row < least((task + 1) * ROWS, x.rows); ++row) {
            std::int8_t* to = y + row * stride;
            for (long k = 0; k < x.columns; k += GROUP, to += ROW_SCALE_BYTES + GROUP)
                byte_group(x.row(row) + k, x.columns - k, to);
        }
    });
}

}  // namespace gorae::GORAE_SET
