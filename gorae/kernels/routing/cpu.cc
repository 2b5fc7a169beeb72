// Which experts a token uses, and how much, row by row: scores, the best groups, the best experts, their weights.
//
// A score by sigmoid has the bits of sigmoid/cpu.cc. Weights are summed in slot order, best expert first. Threads share
// tokens; bound by the comparisons of the choice.

#pragma once

#include "../softmax.h"
#include "../threads.h"

namespace gorae::GORAE_SET {

// Whether `a` comes before `b` in a choice of the largest; what is no number comes first, so that it is seen.
inline bool is_above(float a, float b) { return a > b || (a != a && b == b); }

// The number of the largest not yet taken, the lowest among equals.
inline long best_of(const float* values, const char* taken, long count) {
    long best = -1;
    for (long i = 0; i < count; ++i)
        if (!taken[i] && (best < 0 || is_above(values[i], values[best]))) best = i;
    return best;
}

// Take the `num_chosen` largest of `count`, best first.
template <class Note>
inline void choose(const float* values, char* taken, long count, long num_chosen, const Note& note) {
    std::fill_n(taken, count, 0);
    for (long slot = 0; slot < num_chosen; ++slot) {
        const long best = best_of(values, taken, count);
        taken[best] = 1;
        note(slot, best);
    }
}

// How good a group is: the sum of its one or two best.
inline float judge(const float* values, char* taken, long count, long num_judged) {
    float best[2] = {0.0f, 0.0f};
    choose(values, taken, count, least(num_judged, count), [&](long slot, long i) { best[slot] = values[i]; });
    return num_judged < 2 || count < 2 ? best[0] : best[0] + best[1];
}

inline void route(const Choice& job, int threads) {
    const long num_experts = job.logits.columns, active = job.active;
    constexpr long ROWS = 16;  // a task's
    if (job.logits.rows * num_experts < ELEMENTS / 4) threads = 1;
    share(blocks_of(job.logits.rows, ROWS), threads, [&](long task) {
        // biased scores, how good each group is, what is taken
        float* biased = scratch(SCORES, 2 * num_experts + blocks_of(num_experts, 4));
        float* groups = biased + num_experts;
        char* taken = reinterpret_cast<char*>(groups + num_experts);
        for (long row = task * ROWS; row < least((task + 1) * ROWS, job.logits.rows); ++row) {
            const float* logits = job.logits.row(row);
            float *scores = job.scores + row * num_experts, *weights = job.weights + row * active;
            std::int64_t* experts = job.experts + row * active;
            if (job.is_softmax) {
                const float total =
                    sum_of_exponentials(logits, num_experts, largest_of(logits, num_experts),
                                        [&](long i, Lanes share) { store_some(scores + i, share, num_experts - i); });
                map(scores, scores, num_experts, [&](Lanes some) { return some / broadcast(total); });
            } else {
                map(logits, scores, num_experts, logistic);
            }
            for (long e = 0; e < num_experts; ++e) biased[e] = job.bias ? scores[e] + job.bias[e] : scores[e];
            if (job.groups > 1) {
                const long size = num_experts / job.groups;
                for (long g = 0; g < job.groups; ++g)
                    groups[g] = judge(biased + g * size, taken, size, job.is_softmax ? 1 : 2);
                choose(groups, taken, job.groups, job.active_groups, [](long, long) {});
                for (long e = 0; e < num_experts; ++e)
                    if (!taken[e / size]) biased[e] = -INFINITY;
            }
            float sum = 0.0f;
            choose(biased, taken, num_experts, active, [&](long slot, long expert) {
                experts[slot] = expert;
                weights[slot] = scores[expert];
                sum += scores[expert];
            });
            for (long slot = 0; slot < active; ++slot) {
                if (job.normalizes) weights[slot] /= sum + 1e-20f;
                weights[slot] *= job.scale;
            }
        }
    });
}

}  // namespace gorae::GORAE_SET
