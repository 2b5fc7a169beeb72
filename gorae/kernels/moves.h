// What lies between kernels when a recording is repeated (recording.py): sums of two, and numbers put elsewhere. Each
// moves the few rows of a token or some, so one thread does it; bits are PyTorch's.

#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "operations.h"

namespace gorae {

// Rows of `left` and those of `right`, which may be one and the same.
inline void sum_of_two(const float* left, const float* right, float* y, long rows, long width, long right_step) {
    for (long row = 0; row < rows; ++row, left += width, right += right_step, y += width)
        for (long i = 0; i < width; ++i) y[i] = left[i] + right[i];
}

inline void put_number(float from, float& to) { to = from; }
inline void put_number(float from, Bfloat16& to) { to = nearest_bfloat16(from); }
inline void put_number(Bfloat16 from, Bfloat16& to) { to = from; }

// Numbers [A, B, C, D] in steps of their own on both sides; those of D lie side by side where both last steps are 1.
struct Move {
    long sizes[4], from_steps[4], to_steps[4];
};

template <class From, class To>
void move_rows(const From* from, To* to, const Move& move) {
    const auto [a, b, c, d] = move.sizes;
    const auto *steps = move.from_steps, *to_steps = move.to_steps;
    const bool is_even = steps[3] == 1 && to_steps[3] == 1;
    for (long i = 0; i < a; ++i)
        for (long j = 0; j < b; ++j)
            for (long k = 0; k < c; ++k) {
                const From* row = from + i * steps[0] + j * steps[1] + k * steps[2];
                To* to_row = to + i * to_steps[0] + j * to_steps[1] + k * to_steps[2];
                if (is_even)
                    for (long n = 0; n < d; ++n) put_number(row[n], to_row[n]);
                else
                    for (long n = 0; n < d; ++n) put_number(row[n * steps[3]], to_row[n * to_steps[3]]);
            }
}

// Bytes [B, T, J, row] of tokens into page pages[b, t], place places[b, t] of each; the steps of a page, place and head.
inline void write_pages(const char* from, const long sizes[4], const long steps[3], const std::int64_t* pages,
                        const std::int64_t* places, char* to, const long to_steps[3]) {
    for (long sequence = 0; sequence < sizes[0]; ++sequence)
        for (long token = 0; token < sizes[1]; ++token, ++pages, ++places)
            for (long head = 0; head < sizes[2]; ++head)
                std::memcpy(to + *pages * to_steps[0] + *places * to_steps[1] + head * to_steps[2],
                            from + sequence * steps[0] + token * steps[1] + head * steps[2], sizes[3]);
}

}  // namespace gorae
