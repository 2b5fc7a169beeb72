// silu(gate) · up, eight elements at a time, the last ones by the same instructions.

#pragma once

#include "../sigmoid/cpu.cc"

namespace gorae::GORAE_SET {

inline void swiglu(const float* gate, const float* up, float* y, long count, int threads) {
    share(blocks_of(count, ELEMENTS), threads, [&](long task) {
        const long first = task * ELEMENTS;
        map(gate + first, up + first, y + first, least(ELEMENTS, count - first), silu_times);
    });
}

}  // namespace gorae::GORAE_SET
