// y = x Wᵀ with one order of summation for every output: a chain of fused multiply-adds from +0 over each block of 256
// inputs, and these sums added in order to +0. An output's bits follow from its row of x and its row of W alone.
//
// Few rows read W as it lies: in panels of 16 outputs, or by rows, eight by eight, turned in registers. Bound by the
// bytes of W. More rows first put 16 outputs side by side in floats, a block of inputs at a time (16 KB, which stays in
// the first cache), and run tiles of up to 6 rows over it: bound by multiply-adds. Threads take groups of outputs, and
// parts of the rows where those are few or the rows many.

#pragma once

#include "../parts.h"
#include "../threads.h"

namespace gorae::GORAE_SET {

constexpr int PANEL = 16;         // outputs side by side in packed memory
constexpr long OUTPUTS = 64;      // that a task computes: four panels
constexpr int TILE = 6;           // most rows of a tile: 12 of 16 registers hold its sums
constexpr long FEW_ROWS = 6;      // up to which packing does not pay
constexpr long ROWS_AT_HAND = 96; // whose block of inputs stays in the second cache
constexpr long ROWS_OF_A_PART = 512;  // over which W is packed anew: they come from the third cache for all outputs
constexpr double LEAST_FLOPS = 2e5;  // below which a second thread costs more than it helps

// As load_columns, where fewer than eight columns are left.
template <class Number>
inline void load_last_columns(const Number* const rows[8], long first, long count, Lanes columns[8]) {
    Number copies[8][8] = {};
    const Number* whole[8];
    for (int i = 0; i < 8; ++i) {
        std::memcpy(copies[i], rows[i] + first, count * sizeof(Number));
        whole[i] = copies[i];
    }
    load_columns(whole, 0, columns);
}

// Eight outputs of W, which lies by rows; where the matrix ends, its last row again.
template <class Number>
struct EightRows {
    static constexpr long LINE = 64 / sizeof(Number);
    const Number* rows[8];

    EightRows() = default;
    EightRows(Matrix<const Number> weight, long first) {
        for (int i = 0; i < 8; ++i) rows[i] = weight.row(least(first + i, weight.rows - 1));
    }
    void load(long k, Lanes columns[8]) const { load_columns(rows, k, columns); }
    void load_last(long k, long count, Lanes columns[8]) const { load_last_columns(rows, k, count, columns); }
};

// The same where each block of 128 rows and columns has a scale: eight rows from a multiple of eight on share theirs.
struct EightScaledRows {
    static constexpr long LINE = 64, SCALED = 128;
    EightRows<Float8> values;
    const float* scales;

    EightScaledRows() = default;
    EightScaledRows(BlockScaled weight, long first)
        : values({weight.numbers, weight.rows, weight.columns, weight.stride}, first),
          scales(weight.scales + least(first, weight.rows - 1) / SCALED * weight.scale_stride) {}
    void load(long k, Lanes columns[8]) const {
        values.load(k, columns);
        scale(k, columns);
    }
    void load_last(long k, long count, Lanes columns[8]) const {
        values.load_last(k, count, columns);
        scale(k, columns);
    }
    void scale(long k, Lanes columns[8]) const {
        const Lanes factor = broadcast(scales[k / SCALED]);
#pragma GCC unroll 8
        for (int j = 0; j < 8; ++j) columns[j] = columns[j] * factor;
    }
};

template <class Number>
EightRows<Number> eight_rows(Matrix<const Number> weight, long first) {
    return {weight, first};
}
inline EightScaledRows eight_rows(BlockScaled weight, long first) { return {weight, first}; }

inline void clear(Matrix<float> y) {
    for (long row = 0; row < y.rows; ++row) std::fill_n(y.row(row), y.columns, 0.0f);
}

// ROWS rows by GROUPS · 8 outputs, W as it lies by rows.
template <int ROWS, int GROUPS, class Weight>
void direct_tile(Matrix<const float> x, Weight weight, long first_output, Matrix<float> y) {
    using Rows = decltype(eight_rows(weight, 0));
    constexpr long LINE = Rows::LINE;
    Rows rows[GROUPS];
    const float* inputs[ROWS];
    Lanes total[ROWS][GROUPS];
    for (int g = 0; g < GROUPS; ++g) rows[g] = eight_rows(weight, first_output + 8 * g);
    for (int r = 0; r < ROWS; ++r) inputs[r] = x.row(r);
    for (int r = 0; r < ROWS; ++r)
        for (int g = 0; g < GROUPS; ++g) total[r][g] = zero();
    for (long start = 0; start < x.columns; start += BLOCK) {
        const long end = least(start + BLOCK, x.columns);
        Lanes sum[ROWS][GROUPS];
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 8
            for (int g = 0; g < GROUPS; ++g) sum[r][g] = zero();
        long k = start;
        // a line of each row at once: rows a power of two apart share few places in the first cache
        for (; k + LINE <= end; k += LINE)
#pragma GCC unroll 8
            for (int g = 0; g < GROUPS; ++g)
#pragma GCC unroll 4
                for (long part = k; part < k + LINE; part += 8) {
                    Lanes columns[8];
                    rows[g].load(part, columns);
#pragma GCC unroll 8
                    for (int j = 0; j < 8; ++j)
#pragma GCC unroll 8
                        for (int r = 0; r < ROWS; ++r)
                            sum[r][g] = fused(broadcast(inputs[r][part + j]), columns[j], sum[r][g]);
                }
        for (; k + 8 <= end; k += 8)
#pragma GCC unroll 8
            for (int g = 0; g < GROUPS; ++g) {
                Lanes columns[8];
                rows[g].load(k, columns);
#pragma GCC unroll 8
                for (int j = 0; j < 8; ++j)
#pragma GCC unroll 8
                    for (int r = 0; r < ROWS; ++r)
                        sum[r][g] = fused(broadcast(inputs[r][k + j]), columns[j], sum[r][g]);
            }
        if (k < end)
            for (int g = 0; g < GROUPS; ++g) {
                Lanes columns[8];
                rows[g].load_last(k, end - k, columns);
                for (long j = 0; j < end - k; ++j)
                    for (int r = 0; r < ROWS; ++r)
                        sum[r][g] = fused(broadcast(inputs[r][k + j]), columns[j], sum[r][g]);
            }
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 8
            for (int g = 0; g < GROUPS; ++g) total[r][g] = total[r][g] + sum[r][g];
    }
    for (int r = 0; r < ROWS; ++r)
        for (int g = 0; g < GROUPS; ++g) {
            const long output = first_output + 8 * g;
            if (output < y.columns) store_some(y.row(r) + output, total[r][g], y.columns - output);
        }
}

// Groups of eight outputs: two keep enough chains going at once, and more rows than two fill the registers with one.
constexpr int groups_for(int rows) { return rows <= 2 ? 2 : 1; }

template <int ROWS, class Weight>
void direct_rows(Matrix<const float> x, Weight weight, Matrix<float> y, long first, long last) {
    constexpr int GROUPS = groups_for(ROWS);
    for (long output = first; output < last; output += 8 * GROUPS) direct_tile<ROWS, GROUPS>(x, weight, output, y);
}

// ROWS rows by PANELS · 16 outputs, W in panels; where those end, the last one again.
template <int ROWS, int PANELS>
void panels_tile(Matrix<const float> x, HalfPanels weight, long first_output, Matrix<float> y) {
    constexpr long AHEAD = 64;  // inputs, 2 KB of a panel, that are asked for before their turn, a line at a time
    const long last_panel = (weight.rows - 1) / PANEL;
    const Bfloat16* panels[PANELS];
    const float* inputs[ROWS];
    Lanes total[ROWS][PANELS][2];
    for (int p = 0; p < PANELS; ++p)
        panels[p] = weight.numbers + least(first_output / PANEL + p, last_panel) * weight.columns * PANEL;
    for (int r = 0; r < ROWS; ++r) inputs[r] = x.row(r);
    for (int r = 0; r < ROWS; ++r)
        for (int p = 0; p < PANELS; ++p) total[r][p][0] = total[r][p][1] = zero();
    for (long start = 0; start < x.columns; start += BLOCK) {
        const long end = least(start + BLOCK, x.columns);
        Lanes sum[ROWS][PANELS][2];
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 8
            for (int p = 0; p < PANELS; ++p) sum[r][p][0] = sum[r][p][1] = zero();
        const auto add = [&](long k) {
#pragma GCC unroll 8
            for (int p = 0; p < PANELS; ++p) {
                Lanes left, right;
                load_halves(panels[p] + k * PANEL, left, right);
#pragma GCC unroll 8
                for (int r = 0; r < ROWS; ++r) {
                    const Lanes input = broadcast(inputs[r][k]);
                    sum[r][p][0] = fused(input, left, sum[r][p][0]);
                    sum[r][p][1] = fused(input, right, sum[r][p][1]);
                }
            }
        };
        long k = start;
        for (; k + 2 <= end; k += 2) {
            // behind the end of these panels begin the next ones, and among those the first of this group
            const long ahead = k + AHEAD + (k + AHEAD < x.columns ? 0 : (PANELS - 1) * x.columns);
#pragma GCC unroll 8
            for (int p = 0; p < PANELS; ++p) __builtin_prefetch(panels[p] + ahead * PANEL);
            add(k);
            add(k + 1);
        }
        if (k < end) add(k);
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 8
            for (int p = 0; p < PANELS; ++p)
#pragma GCC unroll 2
                for (int half = 0; half < 2; ++half) total[r][p][half] = total[r][p][half] + sum[r][p][half];
    }
    for (int r = 0; r < ROWS; ++r)
        for (int p = 0; p < PANELS; ++p)
            for (int half = 0; half < 2; ++half) {
                const long output = first_output + p * PANEL + 8 * half;
                if (output < y.columns) store_some(y.row(r) + output, total[r][p][half], y.columns - output);
            }
}

// As many panels as registers hold the sums of: more streams of memory at once, and chains enough to be busy.
constexpr int panels_for(int rows) { return rows == 1 ? 4 : rows == 2 ? 2 : 1; }

template <int ROWS>
void direct_rows(Matrix<const float> x, HalfPanels weight, Matrix<float> y, long first, long last) {
    constexpr int PANELS = panels_for(ROWS);
    for (long output = first; output < last; output += PANELS * PANEL) panels_tile<ROWS, PANELS>(x, weight, output, y);
}

// All rows of x, at most FEW_ROWS, by outputs first to last.
template <class Weight>
void direct(Matrix<const float> x, Weight weight, Matrix<float> y, long first, long last) {
    switch (x.rows) {
        case 1: return direct_rows<1>(x, weight, y, first, last);
        case 2: return direct_rows<2>(x, weight, y, first, last);
        case 3: return direct_rows<3>(x, weight, y, first, last);
        case 4: return direct_rows<4>(x, weight, y, first, last);
        case 5: return direct_rows<5>(x, weight, y, first, last);
        case 6: return direct_rows<6>(x, weight, y, first, last);
    }
}

// panel[k][i] = input start + k of output first + i
template <class Weight>
void pack(Weight weight, long first, long start, long end, float* panel) {
    for (int half = 0; half < PANEL; half += 8) {
        const auto rows = eight_rows(weight, first + half);
        Lanes columns[8];
        float* to = panel + half;
        long k = start;
        for (; k + 8 <= end; k += 8, to += 8 * PANEL) {
            rows.load(k, columns);
#pragma GCC unroll 8
            for (int j = 0; j < 8; ++j) store(to + j * PANEL, columns[j]);
        }
        if (k < end) {
            rows.load_last(k, end - k, columns);
            for (int j = 0; j < end - k; ++j) store(to + j * PANEL, columns[j]);
        }
    }
}

inline void pack(HalfPanels weight, long first, long start, long end, float* panel) {
    const Bfloat16* from = weight.numbers + (first * weight.columns + start * PANEL);
    for (long k = start; k < end; ++k, from += PANEL, panel += PANEL) {
        Lanes left, right;
        load_halves(from, left, right);
        store(panel, left);
        store(panel + 8, right);
    }
}

// ROWS rows over `count` inputs of one panel: the chains of one block, added to what y holds of the blocks before.
template <int ROWS>
void panel_tile(const float* x, long x_stride, const float* panel, long count, float* y, long y_stride, long outputs,
                bool is_first) {
    Lanes sum[ROWS][2];
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r) sum[r][0] = sum[r][1] = zero();
    for (long k = 0; k < count; ++k) {
        Lanes left = load(panel + k * PANEL), right = load(panel + k * PANEL + 8);
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; ++r) {
            Lanes input = broadcast(x[r * x_stride + k]);
            sum[r][0] = fused(input, left, sum[r][0]);
            sum[r][1] = fused(input, right, sum[r][1]);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r) {
        float edge[PANEL];
        float* to = y + r * y_stride;
        float* at = outputs < PANEL ? edge : to;
        if (outputs < PANEL && !is_first) std::memcpy(edge, to, outputs * sizeof(float));
        store(at, (is_first ? zero() : load(at)) + sum[r][0]);
        store(at + 8, (is_first ? zero() : load(at + 8)) + sum[r][1]);
        if (outputs < PANEL) std::memcpy(to, edge, outputs * sizeof(float));
    }
}

inline void any_panel_tile(long rows, const float* x, long x_stride, const float* panel, long count, float* y,
                           long y_stride, long outputs, bool is_first) {
    switch (rows) {
        case 1: return panel_tile<1>(x, x_stride, panel, count, y, y_stride, outputs, is_first);
        case 2: return panel_tile<2>(x, x_stride, panel, count, y, y_stride, outputs, is_first);
        case 3: return panel_tile<3>(x, x_stride, panel, count, y, y_stride, outputs, is_first);
        case 4: return panel_tile<4>(x, x_stride, panel, count, y, y_stride, outputs, is_first);
        case 5: return panel_tile<5>(x, x_stride, panel, count, y, y_stride, outputs, is_first);
        case 6: return panel_tile<6>(x, x_stride, panel, count, y, y_stride, outputs, is_first);
    }
}

// Rows first_row to last_row by up to OUTPUTS outputs.
template <class Weight>
void packed(Matrix<const float> x, Weight weight, Matrix<float> y, long first_row, long last_row,
            long first_output) {
    float* panels = scratch(PANELS, OUTPUTS * BLOCK);
    const long num_panels = blocks_of(least(OUTPUTS, y.columns - first_output), PANEL);
    for (long start = 0; start < x.columns; start += BLOCK) {
        const long end = least(start + BLOCK, x.columns);
        for (long p = 0; p < num_panels; ++p)
            pack(weight, first_output + p * PANEL, start, end, panels + p * BLOCK * PANEL);
        for (long near = first_row; near < last_row; near += ROWS_AT_HAND) {
            const long far = least(near + ROWS_AT_HAND, last_row), num_tiles = blocks_of(far - near, TILE);
            for (long p = 0; p < num_panels; ++p) {
                const long output = first_output + p * PANEL;
                for (long tile = 0; tile < num_tiles; ++tile) {
                    const long row = near + (far - near) * tile / num_tiles;
                    const long next = near + (far - near) * (tile + 1) / num_tiles;
                    any_panel_tile(next - row, x.row(row) + start, x.stride, panels + p * BLOCK * PANEL, end - start,
                                   y.row(row) + output, y.stride, least(PANEL, y.columns - output), start == 0);
                }
            }
        }
    }
}

// All rows by up to OUTPUTS outputs; x has a column at least.
template <class Weight>
void some_outputs(Matrix<const float> x, Weight weight, Matrix<float> y, long first_output) {
    if (x.rows <= FEW_ROWS)
        direct(x, weight, y, first_output, least(first_output + OUTPUTS, y.columns));
    else
        packed(x, weight, y, 0, x.rows, first_output);
}

template <class Weight>
void linear(Matrix<const float> x, Weight weight, Matrix<float> y, int threads) {
    if (2.0 * x.rows * x.columns * y.columns < LEAST_FLOPS) threads = 1;
    if (x.columns == 0) return clear(y);
    const long groups = blocks_of(y.columns, OUTPUTS);
    const bool has_few_tasks = x.rows > ROWS_AT_HAND && groups < 4 * threads;
    const long parts = std::max(blocks_of(x.rows, ROWS_OF_A_PART), has_few_tasks ? threads : 1l);
    share(groups * parts, threads, [&](long task) {
        const long part = task / groups, first_output = task % groups * OUTPUTS;
        if (parts == 1) return some_outputs(x, weight, y, first_output);
        packed(x, weight, y, x.rows * part / parts, x.rows * (part + 1) / parts, first_output);
    });
}

}  // namespace gorae::GORAE_SET
