// What the compiled kernels offer, once an instruction set. Matrices are rows of contiguous numbers, `stride` apart.
// Strides and sizes count numbers, not bytes.

#pragma once

#include <cstddef>
#include <cstdint>

#ifdef __FAST_MATH__
#error "Gorae's sums must keep their order: compile without -ffast-math"
#endif

namespace gorae {

struct Bfloat16 {
    std::uint16_t bits;
};

struct Half {
    std::uint16_t bits;
};

template <class Number>
struct Matrix {
    Number* numbers;
    long rows, columns, stride;

    Number* row(long index) const { return numbers + index * stride; }
};

// One matrix an expert, all of one shape: expert e's lies at addresses[e], or else e · spacing after `first`.
template <class Number>
struct Experts {
    const std::int64_t* addresses;
    const Number* first;
    long spacing, rows, columns, stride;

    Matrix<const Number> of(long expert) const {
        auto at = addresses ? reinterpret_cast<const Number*>(addresses[expert]) : first + expert * spacing;
        return {at, rows, columns, stride};
    }
};

// Choices are the (token, slot) pairs, P = tokens · active of them. Sorted rows are one a choice, by expert and then by
// choice. The kernel fills all that comes after the weights.
template <class Number>
struct ExpertMlp {
    Matrix<const float> x;             // [N, D]
    const std::int64_t* experts;       // [N, A]
    const float* weights;              // [N, A]
    long active, num_experts;
    Experts<Number> gate, up, down;
    std::int64_t *choices, *rows;      // [P]: the choice of a sorted row, the sorted row of a choice
    std::int64_t* starts;              // [E + 1]: the first sorted row of each expert, and P
    Matrix<float> gates, ups, hidden;  // [P, F], sorted
    Matrix<float> inputs, outputs;     // [P, D], sorted
    Matrix<float> y;                   // [N, D]
};

// Numbers a head, [B, H, tokens, width]: the steps from one sequence, head and token to the next.
struct Heads {
    const float* numbers;
    long sequence, head, token;

    Matrix<const float> of(long which_sequence, long which_head, long first, long last, long width) const {
        return {numbers + which_sequence * sequence + which_head * head + first * token, last - first, width, token};
    }
};

struct Attention {
    Heads query, key, value;
    const float* mask;  // [B or 1, T, S]: 0 where a query may look, minus infinity where not
    long mask_sequence, mask_query;  // steps; the first is 0 where one mask serves all sequences
    long sequences, heads, queries, keys, key_width, value_width;
    float scale;
    std::int64_t* seen;  // [B or 1, T]: the kernel fills in how many keys there are up to the last one seen
    float* y;            // [B, T, H, V]
};

// Panels of 4 or 8 bits lie as panels.py says.
struct PanelLinear {
    const float* x;  // number [row, head, input], at row · x_row + head · x_head + input
    long rows, heads, inputs, x_row, x_head;
    const std::uint8_t* panels;  // of head 0, then of head 1 ...: a head of several fills its panels
    int bits;
    long outputs;  // of a head
    float* y;      // [rows, heads, outputs]
};

// As ExpertMlp, with panels at the addresses of each expert.
struct PanelExperts {
    Matrix<const float> x;        // [N, D]
    const std::int64_t* experts;  // [N, A]
    const float* weights;         // [N, A]
    long active, num_experts, inner;
    const std::int64_t *gate, *up, *down;  // [E]
    int bits, down_bits;
    Matrix<float> y;  // [N, D]
};

struct Operations {
    // y [M, N] = x [M, K] weight [N, K] transposed
    void (*linear_float32)(Matrix<const float> x, Matrix<const float> weight, Matrix<float> y, int threads);
    void (*linear_bfloat16)(Matrix<const float> x, Matrix<const Bfloat16> weight, Matrix<float> y, int threads);
    void (*expert_mlp_float32)(const ExpertMlp<float>& job, int threads);
    void (*expert_mlp_bfloat16)(const ExpertMlp<Bfloat16>& job, int threads);
    // y = softmax(scale · query keyᵀ + mask) value
    void (*attention)(const Attention& job, int threads);
    // y = x · inverse · weight with inverse = 1 / sqrt(mean(x²) + eps), row by row
    void (*rms_norm)(Matrix<const float> x, const float* weight, float eps, Matrix<float> y, float* inverse,
                     int threads);
    // y = 1 / (1 + exp(-x)), and y = silu(gate) · up, element by element
    void (*sigmoid)(const float* x, float* y, long count, int threads);
    void (*swiglu)(const float* gate, const float* up, float* y, long count, int threads);
    // y = x Wᵀ and the routed experts, with weights of few bits and inputs rounded to 8
    void (*panel_linear)(const PanelLinear& job, int threads);
    void (*panel_experts)(const PanelExperts& job, int threads);
};

extern const Operations portable_operations;
#ifdef __x86_64__
extern const Operations avx2_operations, avx512_operations;
#endif

// Memory of the calling thread, one for each `use`, that stays until a call asks for more; aligned to a cache line.
enum Use { PANELS = 0, SCORES = 1, ROUNDED = 2, SORTED = 3, USES = 4 };
float* scratch(Use use, std::size_t floats);

}  // namespace gorae
