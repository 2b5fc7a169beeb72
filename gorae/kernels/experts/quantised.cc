// The routed experts with panels of 4 or 8 bits, in two goes over the threads.
//
// Choices are sorted by expert, and the rounded rows of one expert gathered into strips (linear/quantised.cc). First go:
// an expert's gate and up by two panels each, so 32 hidden numbers a row, which are one group and are rounded where they
// are made. Second: panels of down, over all strips, so that a token's outputs are at hand and are added in slot order.
// One token is bound by the bytes of its experts, and both goes are cut by outputs, so that all threads read at once.

#pragma once

#include "../exponential.h"
#include "../linear/quantised.cc"

namespace gorae::GORAE_SET {

constexpr long CHOICES_AT_ONCE = 8192;  // whose rounded rows are held
constexpr long OUTPUTS_AT_HAND = 1 << 17;  // until they are added: half a megabyte
constexpr long GROUPS_OF_A_TASK = 4;    // of 32 hidden numbers

// Sorted rows `first` to `first + rows` of an expert.
struct Strip {
    long expert, first, rows;
};

struct SortedChoices {
    long *choices, *places;  // the choice of a sorted row, the sorted row of a choice
    Strip* strips;           // by expert
    long* firsts;            // the first strip of each expert that was chosen, and the number of all
    long num_chosen;

    long num_strips() const { return firsts[num_chosen]; }
};

inline SortedChoices sorted_choices(const PanelExperts& job) {
    const long num_choices = job.x.rows * job.active, num_experts = job.num_experts;
    long* memory = reinterpret_cast<long*>(scratch(SORTED, (5 * num_choices + 2 * num_experts + 2) * 2));
    SortedChoices sorted{memory, memory + num_choices, reinterpret_cast<Strip*>(memory + 2 * num_choices),
                         memory + 5 * num_choices, 0};
    long *starts = sorted.firsts + num_experts + 1, num_strips = 0;
    std::fill_n(starts, num_experts + 1, 0);
    for (long choice = 0; choice < num_choices; ++choice) ++starts[job.experts[choice] + 1];
    for (long expert = 0; expert < num_experts; ++expert) {
        const long rows = starts[expert + 1], parts = blocks_of(rows, STRIP), start = starts[expert];
        if (rows) sorted.firsts[sorted.num_chosen++] = num_strips;
        for (long part = 0; part < parts; ++part) {
            const long first = rows * part / parts, next = rows * (part + 1) / parts;
            sorted.strips[num_strips++] = {expert, start + first, next - first};
        }
        starts[expert + 1] += start;
    }
    sorted.firsts[sorted.num_chosen] = num_strips;
    for (long choice = 0; choice < num_choices; ++choice) {
        const long row = starts[job.experts[choice]]++;
        sorted.choices[row] = choice;
        sorted.places[choice] = row;
    }
    return sorted;
}

// silu(gate) · up of a strip for groups `first` to `last` of the hidden numbers, rounded into `hidden`.
inline void hidden_groups(const PanelExperts& job, const Strip& strip, const std::uint8_t* inputs, std::uint8_t* hidden,
                          long first, long last) {
    const long width = job.x.columns, panels_end = blocks_of(job.inner, 16);
    const PanelMatrix gate{panels_at(job.gate[strip.expert]), job.bits, job.inner, width};
    const PanelMatrix up{panels_at(job.up[strip.expert]), job.bits, job.inner, width};
    const long first_panel = least(2 * first, panels_end), last_panel = least(2 * last, panels_end);
    alignas(64) float gates[STRIP * GROUPS_OF_A_TASK * GROUP] = {}, ups[STRIP * GROUPS_OF_A_TASK * GROUP] = {};
    constexpr long STRIDE = GROUPS_OF_A_TASK * GROUP;
    some_panels(inputs, strip.rows, gate, first_panel, last_panel, gates, STRIDE);
    some_panels(inputs, strip.rows, up, first_panel, last_panel, ups, STRIDE);
    for (long group = first; group < last; ++group)
        for (long row = 0; row < strip.rows; ++row) {
            const long at = row * STRIDE + (group - first) * GROUP;
            Lanes numbers[4];
            for (int i = 0; i < 4; ++i) numbers[i] = silu_times(load(gates + at + 8 * i), load(ups + at + 8 * i));
            round_group(numbers, hidden + group * strip.rows * ROUNDED_BYTES, strip.rows, row, job.down_bits);
        }
}

inline void some_tokens(const PanelExperts& job, int threads) {
    const long width = job.x.columns, num_tokens = job.x.rows, num_choices = num_tokens * job.active;
    const long row_bytes = rounded_bytes(width), hidden_bytes = rounded_bytes(job.inner);
    if (6.0 * num_choices * width * job.inner < LEAST_FLOPS) threads = 1;
    const SortedChoices sorted = sorted_choices(job);
    const long num_strips = sorted.num_strips();

    std::uint8_t* rounded = scratch_bytes(ROUNDED, (num_tokens + num_choices) * row_bytes + num_choices * hidden_bytes);
    std::uint8_t* gathered = rounded + num_tokens * row_bytes;
    std::uint8_t* hidden = gathered + num_choices * row_bytes;
    const int round_threads = num_tokens * width < LEAST_TO_ROUND ? 1 : threads;
    share(num_tokens, round_threads, [&](long token) {
        round_row(job.x.row(token), width, rounded + token * row_bytes, 1, 0, job.bits);
    });
    const auto token_of = [&](long sorted_row) { return sorted.choices[sorted_row] / job.active; };
    share(num_strips, num_choices * width < LEAST_TO_ROUND ? 1 : threads, [&](long which) {
        const Strip& strip = sorted.strips[which];
        for (long row = 0; row < strip.rows && strip.rows > 1; ++row)
            move_row(rounded + token_of(strip.first + row) * row_bytes, width, gathered + strip.first * row_bytes,
                     strip.rows, row);
    });

    const long num_groups = 2 * blocks_of_inputs(job.inner), runs = blocks_of(num_groups, GROUPS_OF_A_TASK);
    share(sorted.num_chosen * runs, threads, [&](long task) {
        const long first = task % runs * GROUPS_OF_A_TASK, last = least(first + GROUPS_OF_A_TASK, num_groups);
        for (long which = sorted.firsts[task / runs]; which < sorted.firsts[task / runs + 1]; ++which) {
            const Strip& strip = sorted.strips[which];
            const std::uint8_t* inputs =
                strip.rows > 1 ? gathered + strip.first * row_bytes : rounded + token_of(strip.first) * row_bytes;
            hidden_groups(job, strip, inputs, hidden + strip.first * hidden_bytes, first, last);
        }
    });

    const long num_panels = blocks_of(width, 16);
    const PanelMatrix one_down{nullptr, job.down_bits, width, job.inner};
    const long wanted = panels_of_a_task(one_down, num_panels, num_strips == sorted.num_chosen, threads);
    const long at_once = std::clamp(OUTPUTS_AT_HAND / (16 * std::max(1l, num_choices)), 1l, wanted);
    share(blocks_of(num_panels, at_once), threads, [&](long task) {
        const long first = task * at_once, last = least(first + at_once, num_panels), stride = at_once * 16;
        float* outputs = scratch(PANELS, num_choices * stride);
        for (long which = 0; which < num_strips; ++which) {
            const Strip& strip = sorted.strips[which];
            const PanelMatrix down{panels_at(job.down[strip.expert]), job.down_bits, width, job.inner};
            some_panels(hidden + strip.first * hidden_bytes, strip.rows, down, first, last,
                        outputs + strip.first * stride, stride);
        }
        const long end = least(last * 16, width);
        for (long token = 0; token < num_tokens; ++token)
            for (long column = first * 16; column < end; column += 8) {
                const auto weighted = [&](long slot) {
                    const long choice = token * job.active + slot;
                    return load_some(outputs + sorted.places[choice] * stride + column - first * 16, end - column) *
                           broadcast(job.weights[choice]);
                };
                Lanes sum = weighted(0);  // products and sums rounded one by one, as the reference rounds them
                for (long slot = 1; slot < job.active; ++slot) sum = sum + weighted(slot);
                store_some(job.y.row(token) + column, sum, end - column);
            }
    });
}

inline void panel_experts(const PanelExperts& job, int threads) {
    const long tokens_at_once = std::max(1l, CHOICES_AT_ONCE / job.active);
    for (long first = 0; first < job.x.rows; first += tokens_at_once) {
        PanelExperts part = job;
        part.x.numbers = job.x.row(first);
        part.y.numbers = job.y.row(first);
        part.x.rows = part.y.rows = least(tokens_at_once, job.x.rows - first);
        part.experts += first * job.active;
        part.weights += first * job.active;
        some_tokens(part, threads);
    }
}

}  // namespace gorae::GORAE_SET
