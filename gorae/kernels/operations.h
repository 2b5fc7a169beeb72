// What the compiled kernels offer, once an instruction set. Matrices are rows of contiguous numbers, `stride` apart.
// Strides and sizes count numbers, not bytes.

#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#ifdef __FAST_MATH__
#error "Gorae's sums must keep their order: compile without -ffast-math"
#endif

namespace gorae {

struct Bfloat16 {
    std::uint16_t bits;
};

// The nearest one, the even one of two. Static: each instruction set has its own, since the linker would keep any.
static inline Bfloat16 nearest_bfloat16(float number) {
    std::uint32_t bits;
    std::memcpy(&bits, &number, sizeof bits);
    const bool is_number = (bits & 0x7fffffff) <= 0x7f800000;
    return {static_cast<std::uint16_t>(is_number ? (bits + 0x7fff + (bits >> 16 & 1)) >> 16 : 0x7fc0)};
}

struct Float8 {  // float8_e4m3fn
    std::uint8_t bits;
};

struct Half {
    std::uint16_t bits;
};

// Of a row of scales and numbers, as byte_rows/__init__.py says; alone, a number without its scale.
struct RowByte {
    std::int8_t number;
};

template <class Number>
struct Matrix {
    Number* numbers;
    long rows, columns, stride;

    Number* row(long index) const { return numbers + index * stride; }
};

// A weight is a Matrix of float or Bfloat16, or one of these two: rows are outputs, columns inputs.

// Panels of 16 bits, as panels.py says: 16 outputs of an input side by side.
struct HalfPanels {
    const Bfloat16* numbers;
    long rows, columns;
};

// A scale for each block of 128 rows and 128 columns, partial at the edges, `scale_stride` from one row of them to the
// next. A number is the value times its scale, rounded to float.
struct BlockScaled {
    const Float8* numbers;
    const float* scales;
    long rows, columns, stride, scale_stride;
};

// One matrix an expert, all of one shape: expert e's lies at addresses[e], or else e · spacing after `first`.
template <class Weight>
struct Experts;

template <class Number>
struct Experts<Matrix<const Number>> {
    const std::int64_t* addresses;
    const Number* first;
    long spacing, rows, columns, stride;

    Matrix<const Number> of(long expert) const {
        auto at = addresses ? reinterpret_cast<const Number*>(addresses[expert]) : first + expert * spacing;
        return {at, rows, columns, stride};
    }
};

template <>
struct Experts<HalfPanels> {
    const std::int64_t* addresses;
    long rows, columns;

    HalfPanels of(long expert) const { return {reinterpret_cast<const Bfloat16*>(addresses[expert]), rows, columns}; }
};

template <>
struct Experts<BlockScaled> {
    const std::int64_t *addresses, *scales;
    long rows, columns, stride, scale_stride;

    BlockScaled of(long expert) const {
        return {reinterpret_cast<const Float8*>(addresses[expert]), reinterpret_cast<const float*>(scales[expert]), rows,
                columns, stride, scale_stride};
    }
};

// Choices are the (token, slot) pairs, P = tokens · active of them. Sorted rows are one a choice, by expert and then by
// choice. The kernel fills all that comes after the weights.
template <class Weight>
struct ExpertMlp {
    Matrix<const float> x;             // [N, D]
    const std::int64_t* experts;       // [N, A]
    const float* weights;              // [N, A]
    long active, num_experts;
    Experts<Weight> gate, up, down;
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



// Numbers of a token of one key head lie side by side: the steps from one page, key head and token to the next.
template <class Number>
struct Pages {
    const Number* numbers;
    long page, head, token;
};

// Where the pages of sequences lie: page n of sequence b is number places[b * row + n]. Without places sequences lie
// whole, one `row` steps after the other.
struct PageTable {
    const std::int64_t* places;
    long row, page_tokens;

    template <class Number>
    const Number* page(const Pages<Number>& pages, long sequence, long head, long number) const {
        const long at = places ? places[sequence * row + number] * pages.page : sequence * row + number * pages.page;
        return pages.numbers + at + head * pages.head;
    }
};

struct Attention {
    Heads query;
    Pages<float> key, value;
    PageTable key_table, value_table;
    const std::int64_t* starts;  // [B]: tokens before the first query, which sees those up to its own; or else a mask
    const float* mask;           // [B or 1, T, S]: 0 where a query may look, minus infinity where not
    long mask_sequence, mask_query;  // steps; the first is 0 where one mask serves all sequences
    long sequences, heads, key_heads, queries, keys, key_width, value_width;
    float scale;
    std::int64_t* seen;  // [B or 1, T]: the kernel fills in how many keys there are up to the last one seen
    float* y;            // [B, T, H, V]
};

template <class Number>
struct PagedAttention {
    Heads query;
    Pages<Number> key, value;  // of one address: a token's value is the beginning of its key
    PageTable table;
    const std::int64_t* starts;  // [B]: tokens before the first query
    long sequences, heads, key_heads, queries, key_width, value_width;
    float scale;
    float* y;  // [B, T, H, V]
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

// x turned pair by pair: rows [A, B, C, 2 · half] in memory order of y, with the steps of x and of the cosines between
// them. Backwards turns by the opposite angles.
struct Rotation {
    const float* x;
    const float* cosine;
    float* y;
    long sizes[3], x_steps[3], angle_steps[3];
    long from_cosine_to_sine, half;
    bool is_interleaved, is_back;
};

// Which experts each token uses. No bias is null; the kernel fills in what comes last.
struct Choice {
    Matrix<const float> logits;  // [N, E]
    const float* bias;           // [E]
    long active;
    bool is_softmax;
    long groups, active_groups;
    bool normalizes;
    float scale;
    float* scores;          // [N, E]
    std::int64_t* experts;  // [N, A], best first
    float* weights;         // [N, A]
};

// What there is for one kind of weight.
template <class Weight>
struct Products {
    // y [M, N] = x [M, K] weight [N, K] transposed
    void (*linear)(Matrix<const float> x, Weight weight, Matrix<float> y, int threads);
    void (*expert_mlp)(const ExpertMlp<Weight>& job, int threads);
};

struct Operations {
    Products<Matrix<const float>> float32;
    Products<Matrix<const Bfloat16>> bfloat16;
    Products<HalfPanels> half_panels;
    Products<BlockScaled> block_scaled;
    // y = softmax(scale · query keyᵀ + mask) value
    void (*attention)(const Attention& job, int threads);
    // the same over pages; a query sees the tokens up to its own
    void (*paged_attention_float32)(const PagedAttention<float>& job, int threads);
    void (*paged_attention_bfloat16)(const PagedAttention<Bfloat16>& job, int threads);
    void (*paged_attention_bytes)(const PagedAttention<RowByte>& job, int threads);
    // x in the rows of bytes that the last one reads, one after the other
    void (*byte_rows)(Matrix<const float> x, std::int8_t* y, int threads);
    // y = x · inverse · weight with inverse = 1 / sqrt(mean(x²) + eps), row by row
    void (*rms_norm)(Matrix<const float> x, const float* weight, float eps, Matrix<float> y, float* inverse,
                     int threads);
    // y = 1 / (1 + exp(-x)), and y = silu(gate) · up, element by element
    void (*sigmoid)(const float* x, float* y, long count, int threads);
    void (*swiglu)(const float* gate, const float* up, float* y, long count, int threads);
    // the most a processor can do (peak/cpu.cc)
    void (*multiply_add)(long rounds, float* results, int threads);
    void (*multiply_add_bytes)(long rounds, float* results, int threads);
    // y = x Wᵀ and the routed experts, with weights of few bits and inputs rounded to 8
    void (*panel_linear)(const PanelLinear& job, int threads);
    void (*panel_experts)(const PanelExperts& job, int threads);
    // y = x - max(x) - log Σ exp(x - max(x)), row by row
    void (*log_softmax)(Matrix<const float> x, Matrix<float> y, int threads);
    void (*rotate)(const Rotation& job, int threads);
    void (*route)(const Choice& job, int threads);
};

extern const Operations portable_operations;
#ifdef __x86_64__
extern const Operations avx2_operations, avx512_operations;
#endif
#ifdef __aarch64__
extern const Operations neon_operations;
#endif

// Memory of the calling thread, one for each `use`, that stays until a call asks for more; aligned to a cache line.
enum Use { PANELS = 0, SCORES = 1, ROUNDED = 2, SORTED = 3, USES = 4 };
float* scratch(Use use, std::size_t floats);

}  // namespace gorae
