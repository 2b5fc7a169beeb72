// Turn pairs of numbers by angles whose cosines and sines are given, with the bits of the reference: every product and
// every sum rounds. Threads share tokens; bound by bytes.

#pragma once

#include "../parts.h"
#include "../threads.h"

namespace gorae::GORAE_SET {

// STEP from one pair to the next, `apart` from the first of a pair to the second.
template <long STEP>
inline void turn(const float* x, const float* cosine, const float* sine, float sign, long half, long apart, float* y) {
    for (long i = 0; i < half; ++i) {
        const float first = x[STEP * i], second = x[STEP * i + apart], across = sign * sine[i];
        y[STEP * i] = first * cosine[i] - second * across;
        y[STEP * i + apart] = first * across + second * cosine[i];
    }
}

inline void rotate(const Rotation& job, int threads) {
    constexpr long ROWS = 64;  // a task's
    const long* sizes = job.sizes;
    const long num_rows = sizes[0] * sizes[1] * sizes[2];
    if (num_rows * job.half * 2 < ELEMENTS) threads = 1;
    share(blocks_of(num_rows, ROWS), threads, [&](long task) {
        for (long row = task * ROWS; row < least((task + 1) * ROWS, num_rows); ++row) {
            const long place[3] = {row / sizes[2] / sizes[1], row / sizes[2] % sizes[1], row % sizes[2]};
            const float *x = job.x, *cosine = job.cosine;
            for (int i = 0; i < 3; ++i) x += place[i] * job.x_steps[i], cosine += place[i] * job.angle_steps[i];
            const float* sine = cosine + job.from_cosine_to_sine;
            float* y = job.y + row * 2 * job.half;
            const float sign = job.is_back ? -1.0f : 1.0f;
            if (job.is_interleaved)
                turn<2>(x, cosine, sine, sign, job.half, 1, y);
            else
                turn<1>(x, cosine, sine, sign, job.half, job.half, y);
        }
    });
}

}  // namespace gorae::GORAE_SET
