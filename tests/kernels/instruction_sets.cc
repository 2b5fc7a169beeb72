// The kernels of one instruction set beside the portable ones, on awkward shapes, with one and two threads: equal bits.
//
// Compiled with portable.cc and the file of the set, whose operations SET names. Prints a line an operation: its name, how
// many results there were, how many of them differ, and a number made of all bits, the same on every processor. What is
// no number may have any bits that say so. Ends with 1 where results differ.

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <functional>
#include <vector>

#include "operations.h"

#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

using namespace gorae;

namespace gorae {
float* scratch(Use use, std::size_t floats) {
    thread_local std::vector<float> memories[USES];
    if (memories[use].size() < floats + 16) memories[use].resize(floats + 16);
    auto address = reinterpret_cast<std::uintptr_t>(memories[use].data());
    return reinterpret_cast<float*>((address + 63) / 64 * 64);
}
}  // namespace gorae

struct Draw {
    std::uint64_t state = 1;

    std::uint64_t bits() {
        state = state * 6364136223846793005u + 1442695040888963407u;
        return state >> 33;
    }
    long below(long limit) { return static_cast<long>(bits() % limit); }
    // between -1 and 1; now and then a zero with a sign, or a number too small to be normal
    float number() {
        const long kind = below(61);
        if (kind == 0) return -0.0f;
        if (kind == 1) return 1e-41f;
        return static_cast<float>(below(1 << 24)) / (1 << 23) - 1.0f;
    }
    std::vector<float> numbers(long count) {
        std::vector<float> drawn(count);
        for (float& one : drawn) one = number();
        return drawn;
    }
    std::vector<Bfloat16> bfloats(long count) {
        std::vector<Bfloat16> drawn(count);
        for (Bfloat16& one : drawn) {
            const float wide = number();
            std::uint32_t pattern;
            std::memcpy(&pattern, &wide, 4);
            one.bits = static_cast<std::uint16_t>(pattern >> 16);
        }
        return drawn;
    }
    std::vector<Float8> float8s(long count, bool with_nan = false) {
        std::vector<Float8> drawn(count);
        for (Float8& one : drawn) {
            one.bits = static_cast<std::uint8_t>(bits());
            if ((one.bits & 0x7f) == 0x7f && !with_nan) one.bits = 0x80;
        }
        return drawn;
    }
    // panels of 4 or 8 bits of a matrix [outputs, inputs]
    std::vector<std::uint8_t> panels(long outputs, long inputs, int bits_a_number) {
        const long numbers = 64 * 16 * bits_a_number / 8;
        std::vector<std::uint8_t> drawn;
        for (long block = (outputs + 15) / 16 * ((inputs + 63) / 64); block > 0; --block) {
            for (int scale = 0; scale < 32; ++scale) {
                const long half = scale % 7 == 3 ? below(0x400) : 0x1c00 + below(0x1000);  // not all are normal
                drawn.push_back(static_cast<std::uint8_t>(half));
                drawn.push_back(static_cast<std::uint8_t>(half >> 8));
            }
            for (long i = 0; i < numbers; ++i) {
                const auto byte = static_cast<std::uint8_t>(bits());
                drawn.push_back(bits_a_number == 8 && byte == 0x80 ? 0x81 : byte);
            }
        }
        return drawn;
    }
};

struct Tally {
    const char* name;
    long results = 0, different = 0;
    std::uint64_t number = 14695981039346656037u;
};

static std::vector<Tally> tallies;

static std::uint32_t bits_of(float number) {
    std::uint32_t bits;
    if (std::isnan(number)) return 0x7fc00000;
    std::memcpy(&bits, &number, 4);
    return bits;
}

// Compare what `run` writes to `count` results.
static void compare(const char* name, long count, const std::function<void(const Operations&, float*, int)>& run) {
    if (tallies.empty() || std::strcmp(tallies.back().name, name) != 0) tallies.push_back({name});
    Tally& tally = tallies.back();
    std::vector<float> expected(count, 7.0f);
    run(portable_operations, expected.data(), 1);
    for (float one : expected) tally.number = (tally.number ^ bits_of(one)) * 1099511628211u;
    for (int threads : {1, 2}) {
        std::vector<float> found(count, 9.0f);
        run(SET, found.data(), threads);
        for (long i = 0; i < count; ++i) tally.different += bits_of(found[i]) != bits_of(expected[i]);
        tally.results += count;
    }
}

// A weight of one kind, [rows, columns], and where several of a shape lie as experts.
template <class Weight>
struct Held;

template <class Number>
struct HeldMatrix {
    std::vector<Number> numbers;
    long count, rows, columns, stride;

    Matrix<const Number> whole() const { return {numbers.data(), rows, columns, stride}; }
    Experts<Matrix<const Number>> experts() { return {nullptr, numbers.data(), rows * stride, rows, columns, stride}; }
};

template <>
struct Held<Matrix<const float>> : HeldMatrix<float> {
    Held(Draw& draw, long count, long rows, long columns)
        : HeldMatrix{draw.numbers(count * rows * (columns + 3)), count, rows, columns, columns + 3} {}
};

template <>
struct Held<Matrix<const Bfloat16>> : HeldMatrix<Bfloat16> {
    Held(Draw& draw, long count, long rows, long columns)
        : HeldMatrix{draw.bfloats(count * rows * (columns + 5)), count, rows, columns, columns + 5} {}
};

template <>
struct Held<HalfPanels> {
    std::vector<Bfloat16> numbers;
    std::vector<std::int64_t> addresses;
    long rows, columns;

    Held(Draw& draw, long count, long rows_, long columns_) : rows(rows_), columns(columns_) {
        const long size = (rows + 15) / 16 * 16 * columns;
        numbers = draw.bfloats(count * size);
        for (long i = 0; i < count; ++i) addresses.push_back(reinterpret_cast<std::int64_t>(numbers.data() + i * size));
    }
    HalfPanels whole() const { return {numbers.data(), rows, columns}; }
    Experts<HalfPanels> experts() { return {addresses.data(), rows, columns}; }
};

template <>
struct Held<BlockScaled> {
    std::vector<Float8> numbers;
    std::vector<float> scales;
    std::vector<std::int64_t> addresses, scale_addresses;
    long rows, columns, across;

    Held(Draw& draw, long count, long rows_, long columns_) : rows(rows_), columns(columns_), across((columns + 127) / 128) {
        const long down = (rows + 127) / 128;
        numbers = draw.float8s(count * rows * columns, columns == 9);
        scales = draw.numbers(count * down * across);
        for (float& scale : scales) scale = std::fabs(scale) + 0.01f;
        for (long i = 0; i < count; ++i) {
            addresses.push_back(reinterpret_cast<std::int64_t>(numbers.data() + i * rows * columns));
            scale_addresses.push_back(reinterpret_cast<std::int64_t>(scales.data() + i * down * across));
        }
    }
    BlockScaled whole() const { return {numbers.data(), scales.data(), rows, columns, columns, across}; }
    Experts<BlockScaled> experts() {
        return {addresses.data(), scale_addresses.data(), rows, columns, columns, across};
    }
};

static const long ROWS[] = {1, 2, 3, 5, 6, 7, 13}, INPUTS[] = {1, 7, 9, 64, 130, 257}, OUTPUTS[] = {1, 8, 15, 17, 70};

template <class Weight>
static void products(Draw& draw, const char* name, const char* experts_name, Products<Weight> Operations::* of) {
    for (long rows : ROWS)
        for (long inputs : INPUTS)
            for (long outputs : OUTPUTS) {
                const auto x = draw.numbers(rows * (inputs + 2));
                const Held<Weight> weight(draw, 1, outputs, inputs);
                compare(name, rows * outputs, [&](const Operations& set, float* y, int threads) {
                    (set.*of).linear({x.data(), rows, inputs, inputs + 2}, weight.whole(), {y, rows, outputs, outputs},
                                     threads);
                });
            }
    for (long tokens : {1, 4, 21}) {
        const long active = 2, experts = 5, width = 37, inner = 25, choices = tokens * active;
        Held<Weight> gate(draw, experts, inner, width), up(draw, experts, inner, width), down(draw, experts, width, inner);
        const auto x = draw.numbers(tokens * width), weights = draw.numbers(choices);
        std::vector<std::int64_t> chosen(choices);
        for (auto& one : chosen) one = draw.below(experts);
        compare(experts_name, tokens * width, [&](const Operations& set, float* y, int threads) {
            std::vector<std::int64_t> integers(2 * choices + experts + 1);
            std::vector<float> room(choices * (3 * inner + 2 * width));
            float *gates = room.data(), *ups = gates + choices * inner, *hidden = ups + choices * inner;
            float *inputs = hidden + choices * inner, *outputs = inputs + choices * width;
            (set.*of).expert_mlp({{x.data(), tokens, width, width}, chosen.data(), weights.data(), active, experts,
                                  gate.experts(), up.experts(), down.experts(), integers.data(),
                                  integers.data() + choices, integers.data() + 2 * choices,
                                  {gates, choices, inner, inner}, {ups, choices, inner, inner},
                                  {hidden, choices, inner, inner}, {inputs, choices, width, width},
                                  {outputs, choices, width, width}, {y, tokens, width, width}},
                                 threads);
        });
    }
}

static void elementwise(Draw& draw) {
    for (long count : {1, 7, 8, 9, 63, 4097}) {
        auto x = draw.numbers(count), up = draw.numbers(count);
        for (float& one : x) one *= 100.0f;
        x[count / 2] = NAN, x[count / 3] = INFINITY, x[count / 4] = -INFINITY;
        compare("sigmoid", count, [&](const Operations& set, float* y, int threads) {
            set.sigmoid(x.data(), y, count, threads);
        });
    }
    for (long count : {1, 7, 8, 9, 63, 4097}) {
        auto x = draw.numbers(count), up = draw.numbers(count);
        for (float& one : x) one *= 100.0f;
        compare("swiglu", count, [&](const Operations& set, float* y, int threads) {
            set.swiglu(x.data(), up.data(), y, count, threads);
        });
    }
    for (long rows : {1, 3, 40})
        for (long width : {1, 7, 8, 65, 300}) {
            const auto x = draw.numbers(rows * (width + 1)), weight = draw.numbers(width);
            compare("rms_norm", rows * (width + 1), [&](const Operations& set, float* y, int threads) {
                set.rms_norm({x.data(), rows, width, width + 1}, weight.data(), 1e-6f, {y, rows, width, width},
                             y + rows * width, threads);
            });
        }
}

static void of_the_head(Draw& draw) {
    for (long rows : {1, 3, 40})
        for (long width : {1, 7, 8, 65, 300}) {
            const auto x = draw.numbers(rows * (width + 1));
            compare("log_softmax", rows * width, [&](const Operations& set, float* y, int threads) {
                set.log_softmax({x.data(), rows, width, width + 1}, {y, rows, width, width}, threads);
            });
        }
    for (long rows : {1, 3, 40})
        for (bool is_softmax : {false, true}) {
            const long experts = 12, active = 3, groups = is_softmax ? 1 : 4, active_groups = is_softmax ? 1 : 2;
            const auto logits = draw.numbers(rows * experts), bias = draw.numbers(experts);
            compare("route", rows * (experts + 2 * active), [&](const Operations& set, float* y, int threads) {
                std::vector<std::int64_t> chosen(rows * active);
                float *scores = y, *weights = y + rows * experts, *found = weights + rows * active;
                set.route({{logits.data(), rows, experts, experts}, is_softmax ? nullptr : bias.data(), active, is_softmax,
                           groups, active_groups, !is_softmax, 2.5f, scores, chosen.data(), weights},
                          threads);
                for (long i = 0; i < rows * active; ++i) found[i] = static_cast<float>(chosen[i]);
            });
        }
}

// Heads of a batch, [2, 3, tokens, width], by angles that all heads share.
static void rotations(Draw& draw) {
    for (bool is_interleaved : {true, false})
        for (bool is_back : {false, true})
            for (long tokens : {1, 5, 130})
                for (long half : {1, 3, 8, 13}) {
                    const long width = 2 * half, count = 2 * 3 * tokens * width, angles = 2 * tokens * half;
                    const auto x = draw.numbers(count), cosines_and_sines = draw.numbers(2 * angles);
                    compare("rotate", count, [&](const Operations& set, float* y, int threads) {
                        set.rotate({x.data(), cosines_and_sines.data(), y, {2, 3, tokens},
                                    {3 * tokens * width, tokens * width, width}, {tokens * half, 0, half}, angles, half,
                                    is_interleaved, is_back},
                                   threads);
                    });
                }
}

static void attentions(Draw& draw) {
    const long sequences = 2, heads = 3, PART = 64;  // keys looked at together, as attention/cpu.py says
    for (long queries : {1, 4, 9, 70})
        for (long before : {0, 5, 260})
            for (long width : {5, 24}) {
                const long keys = before + queries, value_width = width == 5 ? 9 : 16, rows = sequences * heads;
                const auto query = draw.numbers(rows * queries * width), key = draw.numbers(rows * keys * width);
                const auto value = draw.numbers(rows * keys * value_width);
                std::vector<float> mask(queries * keys, 0.0f);
                for (long row = 0; row < queries; ++row)
                    for (long seen = before + row + 1; seen < keys; ++seen) mask[row * keys + seen] = -INFINITY;
                compare("attention", rows * queries * value_width, [&](const Operations& set, float* y, int threads) {
                    std::vector<std::int64_t> seen(queries);
                    set.attention({{query.data(), heads * queries * width, queries * width, width},
                                   {key.data(), PART * width, keys * width, width},
                                   {value.data(), PART * value_width, keys * value_width, value_width},
                                   {nullptr, heads * keys * width, PART}, {nullptr, heads * keys * value_width, PART},
                                   nullptr, mask.data(), 0, keys, sequences, heads, heads, queries, keys, width,
                                   value_width, 0.3f, seen.data(), y},
                                  threads);
                });
            }
}

// The same over pages, key heads shared by two heads each.
static void cached_attentions(Draw& draw) {
    const long sequences = 2, heads = 4, key_heads = 2, page_tokens = 32, pages_each = 12, width = 24, value_width = 17;
    for (long queries : {1, 3, 40})
        for (long before : {0, 31, 300}) {
            const long num_pages = sequences * pages_each, tokens = num_pages * key_heads * page_tokens;
            const auto query = draw.numbers(sequences * heads * queries * width);
            const auto keys = draw.numbers(tokens * width), values = draw.numbers(tokens * value_width);
            std::vector<std::int64_t> table(num_pages), starts = {before, before / 2};
            for (long i = 0; i < num_pages; ++i) table[i] = num_pages - 1 - i;
            const PageTable places{table.data(), pages_each, page_tokens};
            compare("attention pages", sequences * queries * heads * value_width,
                    [&](const Operations& set, float* y, int threads) {
                        std::vector<std::int64_t> seen(sequences * queries);
                        set.attention({{query.data(), heads * queries * width, queries * width, width},
                                       {keys.data(), key_heads * page_tokens * width, page_tokens * width, width},
                                       {values.data(), key_heads * page_tokens * value_width, page_tokens * value_width,
                                        value_width},
                                       places, places, starts.data(), nullptr, 0, 0, sequences, heads, key_heads, queries,
                                       pages_each * page_tokens, width, value_width, 0.3f, seen.data(), y},
                                      threads);
                    });
        }
}

// Numbers that lie side by side for a row of `width`, and such rows.
template <class Number>
static long held_width(long width) {
    return sizeof(Number) == 1 ? width + (width + 31) / 32 * 2 : width;
}
static void draw_rows(Draw& draw, long rows, long width, std::vector<float>& drawn) { drawn = draw.numbers(rows * width); }
static void draw_rows(Draw& draw, long rows, long width, std::vector<Bfloat16>& drawn) {
    drawn = draw.bfloats(rows * width);
}
static void draw_rows(Draw& draw, long rows, long width, std::vector<RowByte>& drawn) {
    const auto wide = draw.numbers(rows * width);
    drawn.resize(rows * held_width<RowByte>(width));
    portable_operations.byte_rows({wide.data(), rows, width, width}, &drawn[0].number, 1);
}

static void bytes(Draw& draw) {
    for (long rows : {1, 3, 300})
        for (long width : {1, 31, 64, 100}) {
            const auto x = draw.numbers(rows * width);
            const long count = rows * held_width<RowByte>(width);
            compare("byte_rows", count, [&](const Operations& set, float* y, int threads) {
                std::vector<std::int8_t> held(count);
                set.byte_rows({x.data(), rows, width, width}, held.data(), threads);
                std::copy(held.begin(), held.end(), y);
            });
        }
}

template <class Number>
static void paged(Draw& draw, const char* name, void (*Operations::* of)(const PagedAttention<Number>&, int)) {
    const long sequences = 2, heads = 4, page_tokens = 32, pages_each = 12;
    for (long queries : {1, 3, 40})
        for (long before : {0, 31, 300})
            for (bool is_latent : {false, true}) {
                const long key_heads = is_latent ? 1 : 2, key_width = is_latent ? 44 : 24;
                const long value_width = is_latent ? 36 : 17;
                const auto query = draw.numbers(sequences * heads * queries * key_width);
                const long num_pages = sequences * pages_each, tokens = num_pages * key_heads * page_tokens;
                std::vector<Number> keys, values;
                draw_rows(draw, tokens, key_width, keys);
                draw_rows(draw, tokens, value_width, values);
                std::vector<std::int64_t> table(num_pages), starts = {before, before / 2};
                for (long i = 0; i < num_pages; ++i) table[i] = num_pages - 1 - i;
                const auto pages_of = [&](const std::vector<Number>& held, long width) {
                    const long step = held_width<Number>(width);
                    return Pages<Number>{held.data(), key_heads * page_tokens * step, page_tokens * step, step};
                };
                const Pages<Number> key = pages_of(keys, key_width), apart = pages_of(values, value_width);
                const PagedAttention<Number> job{
                    {query.data(), heads * queries * key_width, queries * key_width, key_width},
                    key, is_latent ? key : apart, {table.data(), pages_each, page_tokens}, starts.data(), sequences, heads,
                    key_heads, queries, key_width, value_width, 0.3f, nullptr};
                compare(name, sequences * queries * heads * value_width, [&](const Operations& set, float* y, int threads) {
                    PagedAttention<Number> asked = job;
                    asked.y = y;
                    (set.*of)(asked, threads);
                });
            }
}

static void quantised(Draw& draw) {
    for (int bits : {8, 4})
        for (long rows : {1, 3, 4, 5, 14})
            for (long inputs : {1, 31, 64, 200})
                for (long outputs : {1, 16, 50}) {
                    const long heads = rows == 3 ? 2 : 1;
                    const auto x = draw.numbers(rows * heads * inputs);
                    std::vector<std::uint8_t> panels;
                    for (long head = 0; head < heads; ++head)
                        for (std::uint8_t byte : draw.panels(outputs, inputs, bits)) panels.push_back(byte);
                    if (heads > 1 && outputs % 16) continue;
                    compare("panel_linear", rows * heads * outputs, [&](const Operations& set, float* y, int threads) {
                        set.panel_linear({x.data(), rows, heads, inputs, heads * inputs, inputs, panels.data(), bits,
                                          outputs, y},
                                         threads);
                    });
                }
    for (int bits : {8, 4})
        for (long tokens : {1, 5, 19}) {
            const long active = 2, experts = 4, width = 70, inner = 40;
            const auto x = draw.numbers(tokens * width), weights = draw.numbers(tokens * active);
            std::vector<std::int64_t> chosen(tokens * active), gate, up, down;
            for (auto& one : chosen) one = draw.below(experts);
            std::vector<std::vector<std::uint8_t>> held;
            for (long expert = 0; expert < experts; ++expert) {
                held.push_back(draw.panels(inner, width, bits));
                held.push_back(draw.panels(inner, width, bits));
                held.push_back(draw.panels(width, inner, 8));
            }
            for (long expert = 0; expert < experts; ++expert) {
                gate.push_back(reinterpret_cast<std::int64_t>(held[3 * expert].data()));
                up.push_back(reinterpret_cast<std::int64_t>(held[3 * expert + 1].data()));
                down.push_back(reinterpret_cast<std::int64_t>(held[3 * expert + 2].data()));
            }
            compare("panel_experts", tokens * width, [&](const Operations& set, float* y, int threads) {
                set.panel_experts({{x.data(), tokens, width, width}, chosen.data(), weights.data(), active, experts, inner,
                                   gate.data(), up.data(), down.data(), bits, 8, {y, tokens, width, width}},
                                  threads);
            });
        }
}

// As torch.set_flush_denormal does: kernels keep such numbers all the same.
static void flush_denormals() {
#if defined(__aarch64__)
    asm volatile("msr fpcr, %0" : : "r"(std::uint64_t{1} << 24));
#elif defined(__SSE2__)
    _mm_setcsr(_mm_getcsr() | 0x8040);
#endif
}

int main() {
    Draw draw;
    products<Matrix<const float>>(draw, "linear float32", "experts float32", &Operations::float32);
    products<Matrix<const Bfloat16>>(draw, "linear bfloat16", "experts bfloat16", &Operations::bfloat16);
    products<HalfPanels>(draw, "linear panels", "experts panels", &Operations::half_panels);
    products<BlockScaled>(draw, "linear float8", "experts float8", &Operations::block_scaled);
    elementwise(draw);
    of_the_head(draw);
    rotations(draw);
    attentions(draw);
    cached_attentions(draw);
    paged<float>(draw, "paged float32", &Operations::paged_attention_float32);
    paged<Bfloat16>(draw, "paged bfloat16", &Operations::paged_attention_bfloat16);
    paged<RowByte>(draw, "paged bytes", &Operations::paged_attention_bytes);
    bytes(draw);
    quantised(draw);
    const auto x = draw.numbers(3 * 40), weight = draw.numbers(5 * 40);
    std::vector<float> small(x.size(), 1e-20f), weights(weight.size(), 1e-20f);
    flush_denormals();
    compare("denormal numbers", 3 * 5, [&](const Operations& set, float* y, int threads) {
        set.float32.linear({small.data(), 3, 40, 40}, {weights.data(), 5, 40, 40}, {y, 3, 5, 5}, threads);
    });
    bool are_equal = true;
    for (const Tally& tally : tallies) {
        std::printf("%s: %ld results, %ld differ, %016llx\n", tally.name, tally.results, tally.different,
                    static_cast<unsigned long long>(tally.number));
        are_equal = are_equal && tally.different == 0;
    }
    return are_equal ? 0 : 1;
}
