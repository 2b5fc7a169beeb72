// y = x Wᵀ with panels of 4 or 8 bits. A row of x is rounded to int8, each group of 32 inputs with a scale of its own;
// for each output, in order of the groups: the sum of products, an integer, times both scales, is added by one fused
// multiply-add to a chain from +0. So an output's bits follow from its row of x and its row of W alone.
//
// Rounded rows lie in strips (strips.h), and a strip goes over a panel by the tiles of integers_*.h. Threads take runs
// of panels, and parts of the strips where those are few. A strip of few rows is bound by the bytes of the panels, one
// of many by the multiply-adds: one thread of a busy Zen 4 did 330 of 450 GOP/s with VNNI at 4 and 8 bits, and with AVX2
// 150 of 220 at 4 bits and 110 at 8.

#pragma once

#include "../parts.h"
#include "../strips.h"
#include "../threads.h"

namespace gorae::GORAE_SET {

constexpr long ROWS_AT_ONCE = 2048;      // rounded before they are multiplied
constexpr long BYTES_AT_HAND = 1 << 18;  // of panels, that stay in the second cache while strips go over them
constexpr long MOST_PANELS = 16;         // of a task
constexpr double LEAST_PRODUCTS = 1e5;   // below which a second thread costs more than it helps
constexpr long LEAST_TO_ROUND = 1 << 14;

inline Lanes magnitude(Lanes x) { return greater(x, zero() - x); }

// Of numbers that are not negative: these are in the order of their bits, and what is no number is above all.
inline float largest_of(Lanes a) {
    std::uint32_t each[8];
    std::memcpy(each, &a, sizeof each);
    for (int step = 4; step > 0; step /= 2)
        for (int i = 0; i < step; ++i) each[i] = std::max(each[i], each[i + step]);
    float largest;
    std::memcpy(&largest, each, sizeof largest);
    return largest;
}

// Round 32 numbers into their place in a group of a strip of `rows`.
inline void round_group(const Lanes x[4], std::uint8_t* group, long rows, long place, int bits) {
    Lanes largest = greater(greater(magnitude(x[0]), magnitude(x[1])), greater(magnitude(x[2]), magnitude(x[3])));
    // 0, or no number where one of x is none or infinite: so then is the scale, and all that is made with it
    largest = largest + ((x[0] - x[0]) + (x[1] - x[1]) + ((x[2] - x[2]) + (x[3] - x[3])));
    const float scale = largest_of(largest) / 127.0f;
    const float inverse = 1.0f / scale;
    const Lanes factor = broadcast(inverse < HUGE_VALF ? inverse : 0.0f);  // 0 too where a scale is all but 0
    Lanes numbers[4];
    for (int i = 0; i < 4; ++i) numbers[i] = x[i] * factor;
    std::int8_t bytes[GROUP];
    const int missing = -unsigned_by(bits) * to_bytes(numbers, bytes);
    std::memcpy(group + place * 4, &scale, 4);
    std::memcpy(group + (rows + place) * 4, &missing, 4);
    for (int quad = 0; quad < QUADS; ++quad)
        std::memcpy(group + rows * 8 + (quad * rows + place) * 4, bytes + quad * QUAD, 4);
}

inline long blocks_of_inputs(long inputs) { return blocks_of(inputs, 2 * GROUP); }
inline long rounded_bytes(long inputs) { return blocks_of_inputs(inputs) * 2 * ROUNDED_BYTES; }

inline void round_row(const float* x, long inputs, std::uint8_t* strip, long rows, long place, int bits) {
    const long num_groups = 2 * blocks_of_inputs(inputs);
    for (long group = 0; group < num_groups; ++group) {
        const long first = group * GROUP;
        Lanes part[4];
        for (int i = 0; i < 4; ++i)
            part[i] = first + 8 * i < inputs ? load_some(x + first + 8 * i, inputs - first - 8 * i) : zero();
        round_group(part, strip + group * rows * ROUNDED_BYTES, rows, place, bits);
    }
}

// A row of a strip of its own into its place among others.
inline void move_row(const std::uint8_t* from, long inputs, std::uint8_t* strip, long rows, long place) {
    const long num_groups = 2 * blocks_of_inputs(inputs);
    for (long group = 0; group < num_groups; ++group, from += ROUNDED_BYTES, strip += rows * ROUNDED_BYTES) {
        std::memcpy(strip + place * 4, from, 4);
        std::memcpy(strip + (rows + place) * 4, from + 4, 4);
        for (int quad = 0; quad < QUADS; ++quad)
            std::memcpy(strip + rows * 8 + (quad * rows + place) * 4, from + 8 + quad * QUAD, 4);
    }
}

// All rows of a strip by whole panels that lie one after the other.
template <int BITS, int ROWS = STRIP>
inline void dots(const std::uint8_t* strip, long rows, const std::uint8_t* panels, long num_panels, long blocks,
                 float* y, long y_stride) {
    if constexpr (ROWS > 1)
        if (rows < ROWS) return dots<BITS, ROWS - 1>(strip, rows, panels, num_panels, blocks, y, y_stride);
    for (long panel = 0; panel < num_panels; ++panel)
        dots_panel<BITS, ROWS>(strip, panels + panel * blocks * block_bytes(BITS), blocks, y + 16 * panel, y_stride);
}

// The panels of a matrix [outputs, inputs].
struct PanelMatrix {
    const std::uint8_t* panels;
    int bits;
    long outputs, inputs;

    long panel_bytes() const { return blocks_of_inputs(inputs) * block_bytes(bits); }
    long num_panels() const { return blocks_of(outputs, 16); }
};

// A strip by panels `first` to `last`, of which the matrix may fill the last one in part; y is where the first begins.
inline void some_panels(const std::uint8_t* strip, long rows, const PanelMatrix& weight, long first, long last, float* y,
                        long y_stride) {
    const auto run = weight.bits == 4 ? dots<4> : dots<8>;
    const long whole = least(last, weight.outputs / 16), blocks = blocks_of_inputs(weight.inputs);
    run(strip, rows, weight.panels + first * weight.panel_bytes(), whole - first, blocks, y, y_stride);
    if (whole == last) return;
    float edge[STRIP * 16];
    run(strip, rows, weight.panels + whole * weight.panel_bytes(), 1, blocks, edge, 16);
    for (long row = 0; row < rows; ++row)
        std::copy_n(edge + row * 16, weight.outputs - whole * 16, y + row * y_stride + (whole - first) * 16);
}

inline const std::uint8_t* panels_at(std::int64_t address) { return reinterpret_cast<const std::uint8_t*>(address); }

inline std::uint8_t* scratch_bytes(Use use, std::size_t bytes) {
    return reinterpret_cast<std::uint8_t*>(scratch(use, (bytes + 3) / 4));
}

// Panels of a task: where one strip goes over them as many as is fair, or else as many as stay at hand.
inline long panels_of_a_task(const PanelMatrix& weight, long num_panels, bool has_one_strip, int threads) {
    if (has_one_strip) return threads == 1 ? num_panels : std::clamp(num_panels / (4 * threads), 4l, MOST_PANELS);
    return std::clamp(BYTES_AT_HAND / std::max(1l, weight.panel_bytes()), 1l, MOST_PANELS);
}

inline void some_rows(const PanelLinear& job, int threads) {
    const long row_bytes = rounded_bytes(job.inputs), num_strips = blocks_of(job.rows, STRIP);
    const PanelMatrix first_head{job.panels, job.bits, job.outputs, job.inputs};
    const long num_panels = first_head.num_panels(), head_bytes = num_panels * first_head.panel_bytes();
    std::uint8_t* rounded = scratch_bytes(ROUNDED, job.heads * job.rows * row_bytes);
    const auto first_row = [&](long strip) { return job.rows * strip / num_strips; };
    share(job.heads * num_strips, job.heads * job.rows * job.inputs < LEAST_TO_ROUND ? 1 : threads, [&](long task) {
        const long head = task / num_strips, first = first_row(task % num_strips);
        const long rows = first_row(task % num_strips + 1) - first;
        for (long row = 0; row < rows; ++row)
            round_row(job.x + (first + row) * job.x_row + head * job.x_head, job.inputs,
                      rounded + (head * job.rows + first) * row_bytes, rows, row, job.bits);
    });
    if (static_cast<double>(job.rows) * job.inputs * job.outputs * job.heads < LEAST_PRODUCTS) threads = 1;
    const long width = panels_of_a_task(first_head, job.heads * num_panels, num_strips == 1, threads);
    const long runs = blocks_of(num_panels, width);
    const long parts = threads == 1 ? 1 : least(num_strips, blocks_of(4 * threads, job.heads * runs));
    share(job.heads * runs * parts, threads, [&](long task) {
        const long part = task % parts, first = task / parts % runs * width, head = task / parts / runs;
        const PanelMatrix weight{job.panels + head * head_bytes, job.bits, job.outputs, job.inputs};
        for (long strip = num_strips * part / parts; strip < num_strips * (part + 1) / parts; ++strip) {
            const long row = first_row(strip);
            some_panels(rounded + (head * job.rows + row) * row_bytes, first_row(strip + 1) - row, weight, first,
                        least(first + width, num_panels), job.y + (row * job.heads + head) * job.outputs + first * 16,
                        job.heads * job.outputs);
        }
    });
}

inline void panel_linear(const PanelLinear& job, int threads) {
    for (long first = 0; first < job.rows; first += ROWS_AT_ONCE) {
        PanelLinear part = job;
        part.x += first * job.x_row;
        part.y += first * job.heads * job.outputs;
        part.rows = least(ROWS_AT_ONCE, job.rows - first);
        some_rows(part, threads);
    }
}

}  // namespace gorae::GORAE_SET
