// The module gorae.kernels.native: one submodule an instruction set that this processor has, the best one first, with
// functions that take addresses, sizes and strides as integers. gorae/kernels/*/cpu.py calls them, and checks first.

#include <cstdlib>
#include <memory>
#include <tuple>
#include <vector>

#include <nanobind/nanobind.h>
#include <nanobind/stl/tuple.h>

#include "moves.h"
#include "operations.h"

namespace nb = nanobind;

namespace gorae {

float* scratch(Use use, std::size_t floats) {
    constexpr std::size_t LINE = 64;
    struct Free {
        void operator()(float* memory) const { std::free(memory); }
    };
    thread_local std::unique_ptr<float, Free> memories[USES];
    thread_local std::size_t sizes[USES] = {};
    auto& memory = memories[use];
    auto& held = sizes[use];
    if (floats > held) {
        std::size_t bytes = (floats * sizeof(float) + LINE - 1) / LINE * LINE;
        memory.reset();
        held = 0;
        memory.reset(static_cast<float*>(std::aligned_alloc(LINE, bytes)));
        if (!memory) std::abort();  // inside a parallel region nothing can be thrown
        held = floats;
    }
    return memory.get();
}

namespace {

template <class Number>
Matrix<Number> matrix(std::uintptr_t address, long rows, long columns, long stride) {
    return {reinterpret_cast<Number*>(address), rows, columns, stride};
}

using Address = std::uintptr_t;

// The kinds of weights, as gorae/kernels/weights.py numbers them.
enum Kind { FLOAT32, BFLOAT16, HALF_PANELS, BLOCK_SCALED };

// Where a weight lies: its address, that of its scales or 0, and the numbers from one row to the next of both. For a
// matrix an expert there are the address of their addresses or 0, that of the first, and in the place of the scales'
// stride what lies from one expert to the next; with scales, the addresses of their addresses.
using Place = std::tuple<Address, Address, long, long>;

template <class Number>
void locate(Matrix<const Number>& weight, const Place& place, long rows, long columns) {
    auto [address, none, stride, nothing] = place;
    weight = {reinterpret_cast<const Number*>(address), rows, columns, stride};
}
void locate(HalfPanels& weight, const Place& place, long rows, long columns) {
    weight = {reinterpret_cast<const Bfloat16*>(std::get<0>(place)), rows, columns};
}
void locate(BlockScaled& weight, const Place& place, long rows, long columns) {
    auto [address, scales, stride, scale_stride] = place;
    weight = {reinterpret_cast<const Float8*>(address), reinterpret_cast<const float*>(scales), rows, columns, stride,
              scale_stride};
}

template <class Number>
void locate(Experts<Matrix<const Number>>& weights, const Place& place, long rows, long columns) {
    auto [addresses, first, stride, spacing] = place;
    weights = {reinterpret_cast<const std::int64_t*>(addresses), reinterpret_cast<const Number*>(first), spacing, rows,
               columns, stride};
}
void locate(Experts<HalfPanels>& weights, const Place& place, long rows, long columns) {
    weights = {reinterpret_cast<const std::int64_t*>(std::get<0>(place)), rows, columns};
}
void locate(Experts<BlockScaled>& weights, const Place& place, long rows, long columns) {
    auto [addresses, scales, stride, scale_stride] = place;
    weights = {reinterpret_cast<const std::int64_t*>(addresses), reinterpret_cast<const std::int64_t*>(scales), rows,
               columns, stride, scale_stride};
}

// run(the products of the kind, a weight of it)
template <class Run>
void for_kind(const Operations& operations, int kind, const Run& run) {
    switch (kind) {
        case FLOAT32: return run(operations.float32, Matrix<const float>{});
        case BFLOAT16: return run(operations.bfloat16, Matrix<const Bfloat16>{});
        case HALF_PANELS: return run(operations.half_panels, HalfPanels{});
        case BLOCK_SCALED: return run(operations.block_scaled, BlockScaled{});
    }
}

// An address, and the steps of struct Heads.
using Steps = std::tuple<Address, long, long, long>;

Heads heads_of(const Steps& steps) {
    auto [address, sequence, head, token] = steps;
    return {reinterpret_cast<const float*>(address), sequence, head, token};
}

template <class Number>
Pages<Number> pages_of(const Steps& steps) {
    auto [address, page, head, token] = steps;
    return {reinterpret_cast<const Number*>(address), page, head, token};
}

// Of struct PageTable.
using Places = std::tuple<Address, long, long>;

PageTable table_of(const Places& places) {
    auto [address, row, page_tokens] = places;
    return {reinterpret_cast<const std::int64_t*>(address), row, page_tokens};
}

void require_experts(const std::int64_t* chosen, long num_choices, long num_experts) {
    for (long choice = 0; choice < num_choices; ++choice)
        if (chosen[choice] < 0 || chosen[choice] >= num_experts)
            throw nb::index_error("a token chose an expert that is none");
}

using Three = std::tuple<long, long, long>;
using Release = nb::call_guard<nb::gil_scoped_release>;

using Four = std::tuple<long, long, long, long>;

void bind_moves(nb::module_& set) {
    set.def("add", [](Address left, Address right, Address y, long rows, long width, long right_step) {
        sum_of_two(reinterpret_cast<const float*>(left), reinterpret_cast<const float*>(right),
                   reinterpret_cast<float*>(y), rows, width, right_step);
    });
    set.def("move", [](Address from, Four from_steps, bool is_bfloat16, Address to, Four to_steps, bool to_bfloat16,
                       Four sizes) {
        const auto four = [](const Four& held, long* into) { std::tie(into[0], into[1], into[2], into[3]) = held; };
        Move move;
        four(sizes, move.sizes);
        four(from_steps, move.from_steps);
        four(to_steps, move.to_steps);
        const auto narrow = reinterpret_cast<Bfloat16*>(to);
        if (is_bfloat16)
            move_rows(reinterpret_cast<const Bfloat16*>(from), narrow, move);
        else if (to_bfloat16)
            move_rows(reinterpret_cast<const float*>(from), narrow, move);
        else
            move_rows(reinterpret_cast<const float*>(from), reinterpret_cast<float*>(to), move);
    });
    set.def("write_pages", [](Address from, bool is_bfloat16, Four sizes, Three steps, Address pages, Address places,
                              Address to, Three to_steps) {
        const long size[] = {std::get<0>(sizes), std::get<1>(sizes), std::get<2>(sizes), std::get<3>(sizes)};
        const long step[] = {std::get<0>(steps), std::get<1>(steps), std::get<2>(steps)};
        const long to_step[] = {std::get<0>(to_steps), std::get<1>(to_steps), std::get<2>(to_steps)};
        const auto run = [&](auto number) {
            using Number = decltype(number);
            write_pages(reinterpret_cast<const Number*>(from), size, step, reinterpret_cast<const std::int64_t*>(pages),
                        reinterpret_cast<const std::int64_t*>(places), reinterpret_cast<Number*>(to), to_step);
        };
        is_bfloat16 ? run(Bfloat16{}) : run(float{});
    });
}

void bind(nb::module_& parent, const char* name, const Operations& operations) {
    nb::module_ set = parent.def_submodule(name);
    bind_moves(set);
    set.def(
        "linear",
        [&operations](Address x, long rows, long x_stride, int kind, Place place, long outputs, long inputs, Address y,
                      int threads) {
            for_kind(operations, kind, [&](const auto& products, auto weight) {
                locate(weight, place, outputs, inputs);
                products.linear(matrix<const float>(x, rows, inputs, x_stride), weight,
                                matrix<float>(y, rows, outputs, outputs), threads);
            });
        },
        Release());
    set.def(
        "expert_mlp",
        [&operations](Address x, long tokens, long width, long x_stride, Address experts, Address weights, long active,
                      long num_experts, long inner, int kind, Place gate, Place up, Place down, Address sheet,
                      Address saved, Address workspace, Address y, int threads) {
            auto chosen = reinterpret_cast<const std::int64_t*>(experts);
            require_experts(chosen, tokens * active, num_experts);
            nb::gil_scoped_release release;
            for_kind(operations, kind, [&](const auto& products, auto weight) {
                const long choices = tokens * active;
                auto integers = reinterpret_cast<std::int64_t*>(sheet);
                auto gates = reinterpret_cast<float*>(saved), ups = gates + choices * inner;
                auto hidden = reinterpret_cast<float*>(workspace), inputs = hidden + choices * inner;
                ExpertMlp<decltype(weight)> job{
                    matrix<const float>(x, tokens, width, x_stride),
                    chosen,
                    reinterpret_cast<const float*>(weights),
                    active,
                    num_experts,
                    {},
                    {},
                    {},
                    integers,
                    integers + choices,
                    integers + 2 * choices,
                    {gates, choices, inner, inner},
                    {ups, choices, inner, inner},
                    {hidden, choices, inner, inner},
                    {inputs, choices, width, width},
                    {inputs + choices * width, choices, width, width},
                    matrix<float>(y, tokens, width, width),
                };
                locate(job.gate, gate, inner, width);
                locate(job.up, up, inner, width);
                locate(job.down, down, width, inner);
                products.expert_mlp(job, threads);
            });
        });
    set.def(
        "attention",
        [&operations](Steps query, Steps key, Steps value, std::tuple<Places, Places> tables, Address starts,
                      std::tuple<Address, long, long> mask, std::tuple<long, long, long, long, long, long, long> sizes,
                      float scale, Address seen, Address y, int threads) {
            auto [mask_at, mask_sequence, mask_query] = mask;
            auto [sequences, heads, key_heads, queries, keys, key_width, value_width] = sizes;
            operations.attention({heads_of(query), pages_of<float>(key), pages_of<float>(value),
                                  table_of(std::get<0>(tables)), table_of(std::get<1>(tables)),
                                  reinterpret_cast<const std::int64_t*>(starts),
                                  reinterpret_cast<const float*>(mask_at), mask_sequence, mask_query, sequences, heads,
                                  key_heads, queries, keys, key_width, value_width, scale,
                                  reinterpret_cast<std::int64_t*>(seen), reinterpret_cast<float*>(y)},
                                 threads);
        },
        Release());
    set.def(
        "paged_attention",
        [&operations](Steps query, Steps key, Steps value, bool is_bfloat16, std::tuple<Places, Address> tables,
                      std::tuple<long, long, long, long, long, long> sizes, float scale, Address y, int threads) {
            auto [table, starts] = tables;
            auto [sequences, heads, key_heads, queries, key_width, value_width] = sizes;
            auto job = [&](auto number) {
                using Number = decltype(number);
                return PagedAttention<Number>{heads_of(query), pages_of<Number>(key), pages_of<Number>(value),
                                              table_of(table), reinterpret_cast<const std::int64_t*>(starts),
                                              sequences, heads, key_heads, queries, key_width, value_width, scale,
                                              reinterpret_cast<float*>(y)};
            };
            if (is_bfloat16)
                operations.paged_attention_bfloat16(job(Bfloat16{}), threads);
            else
                operations.paged_attention_float32(job(float{}), threads);
        },
        Release());
    set.def(
        "rms_norm",
        [&operations](Address x, long rows, long width, long x_stride, Address weight, float eps, Address y,
                      Address inverse, int threads) {
            operations.rms_norm(matrix<const float>(x, rows, width, x_stride), reinterpret_cast<const float*>(weight),
                                eps, matrix<float>(y, rows, width, width), reinterpret_cast<float*>(inverse), threads);
        },
        Release());
    set.def(
        "sigmoid",
        [&operations](Address x, Address y, long count, int threads) {
            operations.sigmoid(reinterpret_cast<const float*>(x), reinterpret_cast<float*>(y), count, threads);
        },
        Release());
    set.def(
        "swiglu",
        [&operations](Address gate, Address up, Address y, long count, int threads) {
            operations.swiglu(reinterpret_cast<const float*>(gate), reinterpret_cast<const float*>(up),
                              reinterpret_cast<float*>(y), count, threads);
        },
        Release());
    set.def(
        "multiply_add",
        [&operations](long rounds, Address results, int threads) {
            operations.multiply_add(rounds, reinterpret_cast<float*>(results), threads);
        },
        Release());
    set.def(
        "multiply_add_bytes",
        [&operations](long rounds, Address results, int threads) {
            operations.multiply_add_bytes(rounds, reinterpret_cast<float*>(results), threads);
        },
        Release());
    set.def(
        "panel_linear",
        [&operations](Address x, long rows, long heads, long inputs, long x_row, long x_head, Address panels, int bits,
                      long outputs, Address y, int threads) {
            operations.panel_linear({reinterpret_cast<const float*>(x), rows, heads, inputs, x_row, x_head,
                                     reinterpret_cast<const std::uint8_t*>(panels), bits, outputs,
                                     reinterpret_cast<float*>(y)},
                                    threads);
        },
        Release());
    set.def(
        "panel_mlp",
        [&operations](Address x, long rows, long width, long x_stride, long inner, Address gate, Address up,
                      Address down, int bits, int down_bits, Address y, int threads) {
            const std::vector<std::int64_t> chosen(rows, 0), matrices{static_cast<std::int64_t>(gate),
                                                                      static_cast<std::int64_t>(up),
                                                                      static_cast<std::int64_t>(down)};
            const std::vector<float> weights(rows, 1.0f);
            operations.panel_experts({matrix<const float>(x, rows, width, x_stride), chosen.data(), weights.data(), 1,
                                      1, inner, &matrices[0], &matrices[1], &matrices[2], bits, down_bits,
                                      matrix<float>(y, rows, width, width)},
                                     threads);
        },
        Release());
    set.def(
        "panel_experts",
        [&operations](Address x, long tokens, long width, long x_stride, Address experts, Address weights, long active,
                      long num_experts, long inner, Address gate, Address up, Address down, int bits, int down_bits,
                      Address y, int threads) {
            auto chosen = reinterpret_cast<const std::int64_t*>(experts);
            require_experts(chosen, tokens * active, num_experts);
            nb::gil_scoped_release release;
            operations.panel_experts({matrix<const float>(x, tokens, width, x_stride), chosen,
                                      reinterpret_cast<const float*>(weights), active, num_experts, inner,
                                      reinterpret_cast<const std::int64_t*>(gate),
                                      reinterpret_cast<const std::int64_t*>(up),
                                      reinterpret_cast<const std::int64_t*>(down), bits, down_bits,
                                      matrix<float>(y, tokens, width, width)},
                                     threads);
        });
    set.def(
        "log_softmax",
        [&operations](Address x, long rows, long width, long x_stride, Address y, int threads) {
            operations.log_softmax(matrix<const float>(x, rows, width, x_stride), matrix<float>(y, rows, width, width),
                                   threads);
        },
        Release());
    set.def(
        "rotate",
        [&operations](Address x, Three x_steps, Address cosine, Three angle_steps, long from_cosine_to_sine, Three sizes,
                      long half, bool is_interleaved, bool is_back, Address y, int threads) {
            const auto three = [](const Three& held, long* to) { std::tie(to[0], to[1], to[2]) = held; };
            Rotation job{reinterpret_cast<const float*>(x), reinterpret_cast<const float*>(cosine),
                         reinterpret_cast<float*>(y), {}, {}, {}, from_cosine_to_sine, half, is_interleaved, is_back};
            three(sizes, job.sizes);
            three(x_steps, job.x_steps);
            three(angle_steps, job.angle_steps);
            operations.rotate(job, threads);
        },
        Release());
    set.def(
        "route",
        [&operations](Address logits, long tokens, long num_experts, long stride, Address bias,
                      std::tuple<long, bool, long, long, bool, float> rule, Address scores, Address experts,
                      Address weights, int threads) {
            auto [active, is_softmax, groups, active_groups, normalizes, scale] = rule;
            operations.route({matrix<const float>(logits, tokens, num_experts, stride),
                              reinterpret_cast<const float*>(bias), active, is_softmax, groups, active_groups,
                              normalizes, scale, reinterpret_cast<float*>(scores),
                              reinterpret_cast<std::int64_t*>(experts), reinterpret_cast<float*>(weights)},
                             threads);
        },
        Release());
}

bool has_avx2() {
#ifdef __x86_64__
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
#else
    return false;
#endif
}

bool has_avx512() {
#ifdef __x86_64__
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni");
#else
    return false;
#endif
}

}  // namespace

NB_MODULE(native, module) {
    nb::list names;
#ifdef __x86_64__
    if (has_avx512()) {
        bind(module, "avx512", avx512_operations);
        names.append("avx512");
    }
    if (has_avx2()) {
        bind(module, "avx2", avx2_operations);
        names.append("avx2");
    }
#endif
#ifdef __aarch64__
    bind(module, "neon", neon_operations);
    names.append("neon");
#endif
    bind(module, "portable", portable_operations);
    names.append("portable");
    module.attr("instruction_sets") = names;
}

}  // namespace gorae
