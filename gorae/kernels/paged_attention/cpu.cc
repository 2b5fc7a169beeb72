// Attention over pages of remembered keys and values, or of latents that are both. A row is a query of one head; the
// heads that share a key head are rows side by side, so that what is remembered is read, and widened, once for many.
//
// Keys are taken in stretches of 64 and spans of 256, counted from the start of the sequence. A score is eight chains
// over the width, added in one order. Within a span, a row keeps its largest score so far, the sum of its weights and
// the sums of weighted values, a chain over each stretch; a new largest score scales what was summed before. Spans are
// joined in order in the same way. So a row's bits follow from the query and the keys it sees, and threads may share
// (sequence, key head, rows) and, where those are few, spans. Rows end at the last key they see: what lies behind is
// never multiplied in. Bound by multiply-adds from eight rows on; below that, by the bytes of pages.

#pragma once

#include "../byte_rows/cpu.cc"
#include "../exponential.h"
#include "../parts.h"
#include "../threads.h"

namespace gorae::GORAE_SET {

constexpr long STRETCH = 64;     // keys widened at a time: 150 KB of latents, which stay in the second cache
constexpr long SPAN = 256;       // keys after which the sums of a row are closed
constexpr long GROUP_ROWS = 36;  // of a task
constexpr double LEAST_WORK = 2e5;  // FLOPs below which a second thread costs more than it helps

// Rows of numbers as wide as an odd number of cache lines: columns then lie in all places of the first cache.
inline long spread(long width) { return 16 * (blocks_of(width, 16) | 1); }

// What `num_rows` rows have summed: weighted values [rows, V], their largest score, the sum of their weights.
struct Sums {
    float *values, *tops, *totals;
    long stride;

    static long floats(long num_rows, long stride) { return num_rows * (stride + 2); }
    Sums(float* at, long num_rows, long stride)
        : values(at), tops(at + num_rows * stride), totals(tops + num_rows), stride(stride) {}
    float* row(long r) const { return values + r * stride; }
};

inline float exponential_of(float x) {
    float each[8];
    store(each, exponential(broadcast(x)));
    return each[0];
}

// ROWS queries by four keys; `width` is a multiple of eight.
template <int ROWS>
void score_tile(const float* queries, long query_stride, const float* keys, long key_stride, long width, float* scores) {
    Lanes sum[ROWS][4];
#pragma GCC unroll 4
    for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) sum[r][j] = zero();
    for (long k = 0; k < width; k += 8) {
        Lanes query[ROWS];
#pragma GCC unroll 4
        for (int r = 0; r < ROWS; ++r) query[r] = load(queries + r * query_stride + k);
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) {
            const Lanes key = load(keys + j * key_stride + k);
#pragma GCC unroll 4
            for (int r = 0; r < ROWS; ++r) sum[r][j] = fused(query[r], key, sum[r][j]);
        }
    }
    for (int r = 0; r < ROWS; ++r) store_sums(scores + r * STRETCH, sum[r][0], sum[r][1], sum[r][2], sum[r][3]);
}

using ScoreTile = void(const float*, long, const float*, long, long, float*);
constexpr ScoreTile* SCORE_TILES[] = {nullptr, score_tile<1>, score_tile<2>, score_tile<3>};
constexpr long SCORE_ROWS = 3, SCORE_KEYS = 8;

// The scores of a stretch; what stands behind the last key, up to four, is for nobody to read.
inline void score(const float* queries, long query_stride, long num_rows, const float* keys, long key_stride,
                  long num_keys, long width, float* scores) {
    const long num_tiles = blocks_of(num_rows, SCORE_ROWS);
    for (long near = 0; near < num_keys; near += SCORE_KEYS)
        for (long tile = 0; tile < num_tiles; ++tile) {
            const long row = num_rows * tile / num_tiles, next = num_rows * (tile + 1) / num_tiles;
            for (long key = near; key < least(near + SCORE_KEYS, num_keys); key += 4)
                SCORE_TILES[next - row](queries + row * query_stride, query_stride, keys + key * key_stride, key_stride,
                                        width, scores + row * STRETCH + key);
        }
}

// A row's `count` scores become weights, zeros behind them; returns what the sums before have to be scaled by.
inline float weigh(float* scores, long count, bool is_first, float& top, float& total) {
    std::fill(scores + count, scores + STRETCH, -INFINITY);
    const long end = blocks_of(count, 8) * 8;
    Lanes best = load(scores);
    for (long key = 8; key < end; key += 8) best = greater(best, load(scores + key));
    float each[8];
    store(each, best);
    float highest = is_first ? each[0] : top;
    for (float one : each) highest = one > highest ? one : highest;
    Lanes sum = zero();
    for (long key = 0; key < end; key += 8) {
        store(scores + key, exponential(load(scores + key) - broadcast(highest)));
        if (count - key < 8) std::fill(scores + count, scores + key + 8, 0.0f);
        sum = sum + load(scores + key);
    }
    const float before = is_first ? 0.0f : exponential_of(top - highest);
    total = is_first ? sum_of(sum) : total * before + sum_of(sum);
    top = highest;
    return before;
}

// ROWS rows by 16 columns of a stretch: counts[r] of its keys are seen by row r, whose sums so far are scaled.
template <int ROWS>
void weighted_tile(const float* weights, const float* values, long value_stride, const long* counts,
                   const float* scales, float* y, long y_stride, bool is_first) {
    Lanes sum[ROWS][2];
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r) sum[r][0] = sum[r][1] = zero();
    const long seen_by_all = *std::min_element(counts, counts + ROWS);
    for (long key = 0; key < seen_by_all; ++key) {
        const Lanes left = load(values + key * value_stride), right = load(values + key * value_stride + 8);
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; ++r) {
            const Lanes weight = broadcast(weights[r * STRETCH + key]);
            sum[r][0] = fused(weight, left, sum[r][0]);
            sum[r][1] = fused(weight, right, sum[r][1]);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r) {
        if (counts[r] == 0) continue;
        for (long key = seen_by_all; key < counts[r]; ++key) {
            const Lanes weight = broadcast(weights[r * STRETCH + key]);
            sum[r][0] = fused(weight, load(values + key * value_stride), sum[r][0]);
            sum[r][1] = fused(weight, load(values + key * value_stride + 8), sum[r][1]);
        }
        float* to = y + r * y_stride;
        const Lanes before = broadcast(scales[r]);
        store(to, is_first ? sum[r][0] : fused(load(to), before, sum[r][0]));
        store(to + 8, is_first ? sum[r][1] : fused(load(to + 8), before, sum[r][1]));
    }
}

using WeightedTile = void(const float*, const float*, long, const long*, const float*, float*, long, bool);
constexpr WeightedTile* WEIGHTED_TILES[] = {nullptr,          weighted_tile<1>, weighted_tile<2>, weighted_tile<3>,
                                            weighted_tile<4>, weighted_tile<5>, weighted_tile<6>};
constexpr long WEIGHTED_ROWS = 6;

// Sums of a span that follow those of the spans before.
inline void join(const Sums& sums, long row, const Sums& next, long next_row, long width) {
    const float highest = std::max(sums.tops[row], next.tops[next_row]);
    const float before = exponential_of(sums.tops[row] - highest), now = exponential_of(next.tops[next_row] - highest);
    sums.tops[row] = highest;
    sums.totals[row] = sums.totals[row] * before + next.totals[next_row] * now;
    map(sums.row(row), next.row(next_row), sums.row(row), width, [&](Lanes old, Lanes fresh) {
        return fused(fresh, broadcast(now), old * broadcast(before));
    });
}

// In whole eights, zeros behind the width; or no numbers, where the last group is none.
template <class Number>
void widen_row(const Number* from, long width, float* to) {
    long k = 0;
    for (; k + 8 <= width; k += 8) store(to + k, load(from + k));
    if (k < width) {
        Number last[8] = {};
        std::memcpy(last, from + k, (width - k) * sizeof(Number));
        store(to + k, load(last));
    }
}

// Groups of 32, as byte_rows/__init__.py says; a number times its scale is exact.
inline void widen_row(const RowByte* from, long width, float* to) {
    for (; width > 0; width -= GROUP, from += ROW_SCALE_BYTES + GROUP, to += GROUP) {
        const Lanes scale = broadcast(scale_at(from));
        const RowByte* numbers = from + ROW_SCALE_BYTES;
        RowByte last[GROUP] = {};
        if (width < GROUP) {
            std::memcpy(last, numbers, width);
            numbers = last;
        }
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i)
            if (8 * i < width) store(to + 8 * i, load(numbers + 8 * i) * scale);
    }
}

// Some rows of the heads that share a key head, and all that a task needs of them.
template <class Number>
struct Rows {
    const PagedAttention<Number>& job;
    long sequence, key_head, first, last;
    long sharing = job.heads / job.key_heads, count = last - first;
    long key_stride = spread(job.key_width), value_stride = job.key.numbers == job.value.numbers ? key_stride : spread(job.value_width);

    long seen_by(long row) const { return job.starts[sequence] + (first + row) / sharing + 1; }
    long num_spans() const { return blocks_of(seen_by(count - 1), SPAN); }
    float* y(long row) const {
        const long query = (first + row) / sharing, head = key_head * sharing + (first + row) % sharing;
        return job.y + ((sequence * job.queries + query) * job.heads + head) * job.value_width;
    }

    // Queries times the scale, zeros behind their width.
    void gather(float* queries) const {
        for (long row = 0; row < count; ++row) {
            const long query = (first + row) / sharing, head = key_head * sharing + (first + row) % sharing;
            const float* from = job.query.of(sequence, head, query, query + 1, job.key_width).numbers;
            map(from, queries + row * key_stride, job.key_width, [&](Lanes x) { return x * broadcast(job.scale); });
            std::fill(queries + row * key_stride + job.key_width, queries + (row + 1) * key_stride, 0.0f);
        }
    }

    // Keys first to last of a sequence in float32, up to a multiple of eight of their width.
    void widen(const Pages<Number>& pages, long width, long begin, long end, float* to, long stride) const {
        const long page_tokens = job.table.page_tokens;
        for (long key = begin; key < end; ++key, to += stride) {
            const Number* page = job.table.page(pages, sequence, key_head, key / page_tokens);
            widen_row(page + key % page_tokens * pages.token, width, to);
        }
    }

    // The sums of one span of the rows that see its first key.
    void attend(long span, const float* queries, const Sums& sums, float* room) const {
        float *keys = room, *values = keys, *scores = keys + STRETCH * key_stride;
        if (job.key.numbers != job.value.numbers) values = scores, scores += STRETCH * value_stride;
        long skipped = 0;  // rows in front that end before this span
        while (seen_by(skipped) <= span * SPAN) ++skipped;
        const long num_rows = count - skipped, furthest = least(seen_by(count - 1), (span + 1) * SPAN);
        const long width = blocks_of(job.key_width, 8) * 8, num_tiles = blocks_of(num_rows, WEIGHTED_ROWS);
        long counts[GROUP_ROWS];
        float scales[GROUP_ROWS];
        for (long start = span * SPAN; start < furthest; start += STRETCH) {
            const long end = least(start + STRETCH, furthest);
            const bool is_first = start == span * SPAN;
            widen(job.key, job.key_width, start, end, keys, key_stride);
            if (values != keys) widen(job.value, job.value_width, start, end, values, value_stride);
            score(queries + skipped * key_stride, key_stride, num_rows, keys, key_stride, end - start, width, scores);
            for (long row = 0; row < num_rows; ++row) {
                counts[row] = std::clamp<long>(seen_by(skipped + row) - start, 0, end - start);
                if (counts[row] > 0)
                    scales[row] = weigh(scores + row * STRETCH, counts[row], is_first, sums.tops[skipped + row],
                                        sums.totals[skipped + row]);
            }
            for (long column = 0; column < job.value_width; column += 16)
                for (long tile = 0; tile < num_tiles; ++tile) {
                    const long row = num_rows * tile / num_tiles, next = num_rows * (tile + 1) / num_tiles;
                    WEIGHTED_TILES[next - row](scores + row * STRETCH, values + column, value_stride, counts + row,
                                               scales + row, sums.row(skipped + row) + column, sums.stride, is_first);
                }
        }
    }

    void finish(const Sums& sums) const {
        for (long row = 0; row < count; ++row) {
            const Lanes total = broadcast(sums.totals[row]);
            map(sums.row(row), y(row), job.value_width, [&](Lanes sum) { return sum / total; });
        }
    }

    // Floats for queries, keys, values and scores; the last tile of values reads a little beyond them.
    long room() const { return GROUP_ROWS * (key_stride + STRETCH) + STRETCH * (key_stride + value_stride) + 16; }

    void all_spans() const {
        const long stride = spread(job.value_width), size = Sums::floats(GROUP_ROWS, stride);
        float* memory = scratch(SCORES, room() + 2 * size);
        const Sums sums(memory + room(), GROUP_ROWS, stride), next(memory + room() + size, GROUP_ROWS, stride);
        gather(memory);
        for (long span = 0; span < num_spans(); ++span) {
            attend(span, memory, span ? next : sums, memory + GROUP_ROWS * key_stride);
            for (long row = 0; span && row < count; ++row)
                if (seen_by(row) > span * SPAN) join(sums, row, next, row, job.value_width);
        }
        finish(sums);
    }

    void one_span(long span, const Sums& sums) const {
        float* memory = scratch(SCORES, room());
        gather(memory);
        attend(span, memory, sums, memory + GROUP_ROWS * key_stride);
    }
};

template <class Number>
void paged_attention(const PagedAttention<Number>& job, int threads) {
    const long num_rows = job.queries * (job.heads / job.key_heads), num_groups = blocks_of(num_rows, GROUP_ROWS);
    const long num_tasks = job.sequences * job.key_heads * num_groups;
    if (num_tasks == 0) return;
    const auto rows_of = [&](long task) {
        const long group = num_groups - 1 - task / (job.sequences * job.key_heads);  // the longest first
        const long which = task % (job.sequences * job.key_heads);
        return Rows<Number>{job, which / job.key_heads, which % job.key_heads, num_rows * group / num_groups,
                            num_rows * (group + 1) / num_groups};
    };
    const long longest = *std::max_element(job.starts, job.starts + job.sequences) + job.queries;
    if (2.0 * job.sequences * job.heads * job.queries * longest * (job.key_width + job.value_width) < LEAST_WORK)
        threads = 1;
    const long most_spans = blocks_of(longest, SPAN);
    if (threads == 1 || num_tasks >= 2 * threads || most_spans == 1)
        return share(num_tasks, threads, [&](long task) { rows_of(task).all_spans(); });

    const long stride = spread(job.value_width), size = Sums::floats(GROUP_ROWS, stride);
    float* memory = scratch(PANELS, num_tasks * most_spans * size);
    const auto sums_of = [&](long task, long span) {
        return Sums(memory + (task * most_spans + span) * size, GROUP_ROWS, stride);
    };
    share(num_tasks * most_spans, threads, [&](long part) {
        const auto rows = rows_of(part / most_spans);
        const long span = part % most_spans;
        if (span < rows.num_spans()) rows.one_span(span, sums_of(part / most_spans, span));
    });
    share(num_tasks, threads, [&](long task) {
        const auto rows = rows_of(task);
        for (long span = 1; span < rows.num_spans(); ++span)
            for (long row = 0; row < rows.count; ++row)
                if (rows.seen_by(row) > span * SPAN)
                    join(sums_of(task, 0), row, sums_of(task, span), row, job.value_width);
        rows.finish(sums_of(task, 0));
    });
}

}  // namespace gorae::GORAE_SET
