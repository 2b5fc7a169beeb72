// The multiply-adds a processor does with nothing else to do, on registers alone.

#pragma once

#include "../parts.h"
#include "../threads.h"

namespace gorae::GORAE_SET {

// Each thread goes `rounds` times over 12 chains of eight fused multiply-adds: as many as hide their latency.
inline void multiply_add(long rounds, float* results, int threads) {
    share(threads, threads, [&](long task) {
        const Lanes factor = broadcast(0.5f), term = broadcast(1.0f);
        Lanes chain[12];
        for (int j = 0; j < 12; ++j) chain[j] = broadcast(static_cast<float>(j));
        for (long round = 0; round < rounds; ++round)
#pragma GCC unroll 12
            for (int j = 0; j < 12; ++j) chain[j] = fused(chain[j], factor, term);
        for (int j = 1; j < 12; ++j) chain[0] = chain[0] + chain[j];
        results[task] = sum_of(chain[0]);
    });
}

// The same for integers of 8 bits: each thread does `rounds` times 12 · 64 of them.
inline void multiply_add_bytes(long rounds, float* results, int threads) {
    share(threads, threads, [&](long task) { results[task] = static_cast<float>(products_of_bytes(rounds)); });
}

}  // namespace gorae::GORAE_SET
