// The routed experts: choices sorted by expert, gate and up, SwiGLU, down; a token adds its outputs in slot order.
//
// A row goes through the tiles of linear/cpu.cc, so it gets the bits it gets alone. Threads share the pairs of expert
// and outputs; few rows an expert are bound by the bytes of its weights, many by multiply-adds.

#pragma once

#include "../exponential.h"
#include "../linear/cpu.cc"

namespace gorae::GORAE_SET {

template <class Weight>
void sort_choices(const ExpertMlp<Weight>& job) {
    const long num_choices = job.x.rows * job.active;
    std::fill_n(job.starts, job.num_experts + 1, 0);
    for (long choice = 0; choice < num_choices; ++choice) ++job.starts[job.experts[choice] + 1];
    for (long expert = 0; expert < job.num_experts; ++expert) job.starts[expert + 1] += job.starts[expert];
    for (long choice = 0; choice < num_choices; ++choice) {
        const long row = job.starts[job.experts[choice]]++;
        job.choices[row] = choice;
        job.rows[choice] = row;
    }
    for (long expert = job.num_experts; expert > 0; --expert) job.starts[expert] = job.starts[expert - 1];
    job.starts[0] = 0;
}

inline Matrix<float> rows_of(Matrix<float> x, long first, long last) {
    return {x.row(first), last - first, x.columns, x.stride};
}

inline Matrix<const float> to_read(Matrix<float> x) { return {x.numbers, x.rows, x.columns, x.stride}; }

// y = x Wᵀ of each expert's rows, for one or two matrices an expert
template <class Weight>
void each_expert(const ExpertMlp<Weight>& job, Matrix<float> x, std::initializer_list<const Experts<Weight>*> weights,
                 std::initializer_list<Matrix<float>> results, int threads) {
    const long groups = blocks_of(weights.begin()[0]->rows, OUTPUTS), products = weights.size();
    if (x.columns == 0) {
        for (Matrix<float> y : results) clear(y);
        return;
    }
    share(job.num_experts * products * groups, threads, [&](long task) {
        const long group = task % groups, which = task / groups % products, expert = task / groups / products;
        const long first = job.starts[expert], last = job.starts[expert + 1];
        if (first == last) return;
        some_outputs(to_read(rows_of(x, first, last)), weights.begin()[which]->of(expert),
                     rows_of(results.begin()[which], first, last), group * OUTPUTS);
    });
}

template <class Weight>
void expert_mlp(const ExpertMlp<Weight>& job, int threads) {
    const long num_choices = job.x.rows * job.active, width = job.x.columns, inner = job.gate.rows;
    if (6.0 * num_choices * width * inner < LEAST_FLOPS) threads = 1;
    sort_choices(job);
    share(num_choices, threads, [&](long row) {
        std::copy_n(job.x.row(job.choices[row] / job.active), width, job.inputs.row(row));
    });
    each_expert(job, job.inputs, {&job.gate, &job.up}, {job.gates, job.ups}, threads);
    share(num_choices, threads, [&](long row) {
        map(job.gates.row(row), job.ups.row(row), job.hidden.row(row), inner, silu_times);
    });
    each_expert(job, job.hidden, {&job.down}, {job.outputs}, threads);
    share(job.x.rows, threads, [&](long token) {
        for (long column = 0; column < width; column += 8) {
            const auto weighted = [&](long slot) {
                const long choice = token * job.active + slot;
                return load_some(job.outputs.row(job.rows[choice]) + column, width - column) *
                       broadcast(job.weights[choice]);
            };
            Lanes sum = weighted(0);  // products and sums rounded one by one, as the reference rounds them
            for (long slot = 1; slot < job.active; ++slot) sum = sum + weighted(slot);
            store_some(job.y.row(token) + column, sum, width - column);
        }
    });
}

}  // namespace gorae::GORAE_SET
