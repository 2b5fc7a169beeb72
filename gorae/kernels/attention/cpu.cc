// Softmax attention, a query's row in two passes: all its scores, then their exponentials and the weighted values.
//
// Keys and values may lie in pages, and several heads may share them. Scores are products of linear/cpu.cc. The largest score does not depend on order. The sums of weights and of weighted
// values run over the keys from the first on, in blocks of 256 added in order, and end at the last key a query sees; a
// key after it is never multiplied in, not even by zero, so what lies there (another token's, or no number) counts for
// nothing. Threads share (sequence, head, queries); long reading is bound by multiply-adds, decoding by bytes of keys.

#pragma once

#include "../exponential.h"
#include "../linear/cpu.cc"

namespace gorae::GORAE_SET {

constexpr long QUERIES = 128;  // a task's

inline long count_seen(const float* mask, long num_keys) {
    while (num_keys > 0 && mask[num_keys - 1] == -INFINITY) --num_keys;
    return num_keys;
}

inline float largest(Lanes a) {
    float each[8];
    store(each, a);
    return *std::max_element(each, each + 8);
}

// Scores become exponentials, not yet divided by their sum, which is returned. Behind the last key lie zeros. Without a
// mask all keys are seen.
inline float exponentials(float* scores, const float* mask, long num_keys, float scale) {
    Lanes best = broadcast(-INFINITY);
    float hidden[8] = {};
    for (long key = 0; key < num_keys; key += 8) {
        const long count = num_keys - key;
        if (count < 8) {
            if (mask) std::memcpy(hidden, mask + key, count * sizeof(float));
            std::fill_n(hidden + count, 8 - count, -INFINITY);
            std::fill_n(scores + key + count, 8 - count, 0.0f);
        }
        const Lanes score = fused(load(scores + key), broadcast(scale), load(mask && count >= 8 ? mask + key : hidden));
        best = greater(best, score);
        store(scores + key, score);
    }
    const Lanes top = broadcast(largest(best));
    Lanes total = zero();
    for (long start = 0; start < num_keys; start += BLOCK) {
        Lanes sum = zero();
        for (long key = start; key < least(start + BLOCK, num_keys); key += 8) {
            const Lanes share = exponential(load(scores + key) - top);
            store(scores + key, share);
            sum = sum + share;
        }
        total = total + sum;
    }
    return sum_of(total);
}

// The values of one block, page by page.
struct Values {
    const float* pages[BLOCK / 8];
    long page_tokens, stride;

    const float* of(long key) const { return pages[key / page_tokens] + key % page_tokens * stride; }
};

// ROWS queries by VECTORS · 8 columns of one block of values: counts[r] of its keys are seen by row r.
template <int ROWS, int VECTORS>
void value_tile(const float* shares, long share_stride, const Values& values, long column, const long* counts, float* y,
                long y_stride, long columns, bool is_first) {
    Lanes sum[ROWS][VECTORS];
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 8
        for (int v = 0; v < VECTORS; ++v) sum[r][v] = zero();
    const long seen_by_all = *std::min_element(counts, counts + ROWS);
    for (long start = 0; start < seen_by_all; start += values.page_tokens) {
        const float* from = values.of(start) + column;
        const long end = least(start + values.page_tokens, seen_by_all);
        for (long key = start; key < end; ++key, from += values.stride) {
            Lanes value[VECTORS];
#pragma GCC unroll 8
            for (int v = 0; v < VECTORS; ++v) value[v] = load(from + 8 * v);
#pragma GCC unroll 8
            for (int r = 0; r < ROWS; ++r) {
                const Lanes share = broadcast(shares[r * share_stride + key]);
#pragma GCC unroll 8
                for (int v = 0; v < VECTORS; ++v) sum[r][v] = fused(share, value[v], sum[r][v]);
            }
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r) {
        for (long key = seen_by_all; key < counts[r]; ++key) {
            const Lanes share = broadcast(shares[r * share_stride + key]);
#pragma GCC unroll 8
            for (int v = 0; v < VECTORS; ++v)
                sum[r][v] = fused(share, load(values.of(key) + column + 8 * v), sum[r][v]);
        }
#pragma GCC unroll 8
        for (int v = 0; v < VECTORS; ++v) {
            if (8 * v >= columns) break;
            float* to = y + r * y_stride + 8 * v;
            const Lanes before = is_first ? zero() : load_some(to, columns - 8 * v);
            store_some(to, before + sum[r][v], columns - 8 * v);
        }
    }
}

using ValueTile = void(const float*, long, const Values&, long, const long*, float*, long, long, bool);

constexpr int WIDE[] = {0, 8, 4, 4, 2, 2, 2};  // vectors of a tile that reads values as they lie, by rows
constexpr ValueTile* WIDE_TILES[] = {nullptr,          nullptr,          value_tile<2, 4>, value_tile<3, 4>,
                                     value_tile<4, 2>, value_tile<5, 2>, value_tile<6, 2>};
constexpr ValueTile* ONE_ROW_TILES[] = {nullptr,          value_tile<1, 1>, value_tile<1, 2>,
                                        value_tile<1, 3>, value_tile<1, 4>, value_tile<1, 5>,
                                        value_tile<1, 6>, value_tile<1, 7>, value_tile<1, 8>};
constexpr ValueTile* NARROW_TILES[] = {nullptr,          nullptr,          value_tile<2, 1>, value_tile<3, 1>,
                                       value_tile<4, 1>, value_tile<5, 1>, value_tile<6, 1>};
constexpr ValueTile* PANEL_TILES[] = {nullptr,          value_tile<1, 2>, value_tile<2, 2>, value_tile<3, 2>,
                                      value_tile<4, 2>, value_tile<5, 2>, value_tile<6, 2>};

// One block of values into y, for up to QUERIES rows.
inline void add_values(Matrix<const float> shares, const Values& values, const long* counts, Matrix<float> y,
                       bool is_first) {
    if (shares.rows <= FEW_ROWS && y.columns % 8 == 0) {
        const long most = WIDE[shares.rows];
        for (long column = 0; column < y.columns;) {
            const long left = (y.columns - column) / 8;
            const long vectors = shares.rows == 1 ? least(left, most) : left >= most ? most : 1;
            const auto tile = shares.rows == 1 ? ONE_ROW_TILES[vectors]
                              : vectors == 1   ? NARROW_TILES[shares.rows]
                                               : WIDE_TILES[shares.rows];
            tile(shares.numbers, shares.stride, values, column, counts, y.numbers + column, y.stride,
                 y.columns - column, is_first);
            column += 8 * vectors;
        }
        return;
    }
    float* panel = scratch(PANELS, BLOCK * PANEL);
    const Values packed = {{panel}, BLOCK, PANEL};
    for (long column = 0; column < y.columns; column += PANEL) {
        const long columns = y.columns - column;
        for (long key = 0; key < shares.columns; ++key) {
            const float* from = values.of(key) + column;
            store(panel + key * PANEL, load_some(from, columns));
            store(panel + key * PANEL + 8, columns > 8 ? load_some(from + 8, columns - 8) : zero());
        }
        const long num_tiles = blocks_of(shares.rows, TILE);
        for (long tile = 0; tile < num_tiles; ++tile) {
            const long row = shares.rows * tile / num_tiles, next = shares.rows * (tile + 1) / num_tiles;
            PANEL_TILES[next - row](shares.row(row), shares.stride, packed, 0, counts + row, y.row(row) + column,
                                    y.stride, columns, is_first);
        }
    }
}

// Ask for rows of numbers before their turn: a head's share of a page is too short for processors to see it coming.
inline void ask_for(const float* rows, long count, long width, long stride) {
    constexpr long LINE = 64 / sizeof(float);
    if (stride == width) width *= count, count = 1;
    for (long row = 0; row < count; ++row, rows += stride)
        for (long at = 0; at < width; at += LINE) __builtin_prefetch(rows + at, 0, 2);
}

// Whether what queries see differs from sequence to sequence.
inline bool is_each_its_own(const Attention& job) { return job.starts || job.mask_sequence; }

// Queries first to last of one head, whose outputs are the rows of y.
inline void attend(const Attention& job, long sequence, long head, long first, long last) {
    const Matrix<const float> queries = job.query.of(sequence, head, first, last, job.key_width);
    const Matrix<float> y = {job.y + ((sequence * job.queries + first) * job.heads + head) * job.value_width,
                             last - first, job.value_width, job.heads * job.value_width};
    const long key_head = head / (job.heads / job.key_heads);
    const std::int64_t* seen = job.seen + (is_each_its_own(job) ? sequence * job.queries : 0);
    const long furthest = *std::max_element(seen + first, seen + last);
    const long stride = blocks_of(furthest, 8) * 8;
    const Matrix<float> scores = {scratch(SCORES, (last - first) * stride), last - first, furthest, stride};
    const bool is_bound_by_bytes = queries.rows <= FEW_ROWS;
    const auto ask = [&](const Pages<float>& pages, const PageTable& table, long width, long of_head, long key) {
        if (is_bound_by_bytes && key < furthest && of_head < job.key_heads)
            ask_for(table.page(pages, sequence, of_head, key / table.page_tokens),
                    least(table.page_tokens, furthest - key), width, pages.token);
    };
    if (key_head == 0) ask(job.key, job.key_table, job.key_width, key_head, 0);  // the head before asks for others
    for (long key = 0; key < furthest; key += job.key_table.page_tokens) {
        const float* page = job.key_table.page(job.key, sequence, key_head, key / job.key_table.page_tokens);
        const long count = least(job.key_table.page_tokens, furthest - key);
        ask(job.key, job.key_table, job.key_width, key_head, key + count);
        if (key % job.value_table.page_tokens == 0) ask(job.value, job.value_table, job.value_width, key_head, key);
        some_outputs(queries, Matrix<const float>{page, count, job.key_width, job.key.token},
                     {scores.numbers + key, last - first, count, stride}, 0);
    }

    ask(job.key, job.key_table, job.key_width, key_head + 1, 0);

    float totals[QUERIES];
    for (long query = first; query < last; ++query) {
        const float* mask = job.starts ? nullptr : job.mask + sequence * job.mask_sequence + query * job.mask_query;
        totals[query - first] = exponentials(scores.row(query - first), mask, seen[query], job.scale);
    }
    if (furthest == 0) clear(y);
    for (long start = 0; start < furthest; start += BLOCK) {
        const long end = least(start + BLOCK, furthest);
        long counts[QUERIES];
        for (long query = first; query < last; ++query)
            counts[query - first] = std::clamp<long>(seen[query] - start, 0, end - start);
        Values values;
        values.page_tokens = job.value_table.page_tokens, values.stride = job.value.token;
        for (long key = start; key < end; key += values.page_tokens)
            values.pages[(key - start) / values.page_tokens] =
                job.value_table.page(job.value, sequence, key_head, key / values.page_tokens);
        add_values({scores.numbers + start, scores.rows, end - start, stride}, values, counts, y, start == 0);
    }
    for (long row = 0; row < y.rows; ++row)
        map(y.row(row), y.row(row), y.columns, [&](Lanes sum) { return sum / broadcast(totals[row]); });
}

inline void attention(const Attention& job, int threads) {
    if (job.queries == 0) return;
    if (2.0 * job.sequences * job.heads * job.queries * job.keys * (job.key_width + job.value_width) < LEAST_FLOPS)
        threads = 1;
    share((is_each_its_own(job) ? job.sequences : 1) * job.queries, threads, [&](long row) {
        const long sequence = row / job.queries, query = row % job.queries;
        job.seen[row] = job.starts ? job.starts[sequence] + query + 1
                                   : count_seen(job.mask + sequence * job.mask_sequence + query * job.mask_query,
                                                job.keys);
    });
    if (job.queries <= FEW_ROWS && job.sequences >= 4 * threads)  // all heads of a page lie one after the other
        return share(job.sequences, threads, [&](long sequence) {
            for (long head = 0; head < job.heads; ++head) attend(job, sequence, head, 0, job.queries);
        });
    const long parts = blocks_of(job.queries, QUERIES), heads = job.sequences * job.heads;
    share(heads * parts, threads, [&](long task) {
        const long part = parts - 1 - task / heads, which = task % heads;  // the longest first
        attend(job, which / job.heads, which % job.heads, part * QUERIES, least((part + 1) * QUERIES, job.queries));
    });
}

}  // namespace gorae::GORAE_SET
