// The module gorae.kernels.native: one submodule an instruction set that this processor has, the best one first, with
// functions that take addresses, sizes and strides as integers. gorae/kernels/*/cpu.py calls them, and checks first.

#include <cstdlib>
#include <memory>
#include <tuple>

#include <nanobind/nanobind.h>
#include <nanobind/stl/tuple.h>

#include "operations.h"

namespace nb = nanobind;

namespace gorae {

float* scratch(Use use, std::size_t floats) {
    constexpr std::size_t LINE = 64;
    struct Free {
        void operator()(float* memory) const { std::free(memory); }
    };
    thread_local std::unique_ptr<float, Free> memories[2];
    thread_local std::size_t sizes[2] = {};
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

// A matrix an expert: the address of their addresses or 0, the address of the first, and the numbers from one expert to
// the next and from one row to the next.
using Table = std::tuple<Address, Address, long, long>;

template <class Number>
Experts<Number> experts_of(const Table& table, long rows, long columns) {
    auto [addresses, first, spacing, stride] = table;
    return {reinterpret_cast<const std::int64_t*>(addresses), reinterpret_cast<const Number*>(first), spacing, rows,
            columns, stride};
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

using Release = nb::call_guard<nb::gil_scoped_release>;

void bind(nb::module_& parent, const char* name, const Operations& operations) {
    nb::module_ set = parent.def_submodule(name);
    set.def(
        "linear",
        [&operations](Address x, long rows, long x_stride, Address weight, bool is_bfloat16, long outputs, long inputs,
                      long weight_stride, Address y, int threads) {
            auto input = matrix<const float>(x, rows, inputs, x_stride);
            auto output = matrix<float>(y, rows, outputs, outputs);
            if (is_bfloat16)
                operations.linear_bfloat16(input, matrix<const Bfloat16>(weight, outputs, inputs, weight_stride),
                                           output, threads);
            else
                operations.linear_float32(input, matrix<const float>(weight, outputs, inputs, weight_stride), output,
                                          threads);
        },
        Release());
    set.def(
        "expert_mlp",
        [&operations](Address x, long tokens, long width, long x_stride, Address experts, Address weights, long active,
                      long num_experts, long inner, bool is_bfloat16, Table gate, Table up, Table down, Address sheet,
                      Address saved, Address workspace, Address y, int threads) {
            auto job = [&](auto number) {
                using Number = decltype(number);
                const long choices = tokens * active;
                auto integers = reinterpret_cast<std::int64_t*>(sheet);
                auto gates = reinterpret_cast<float*>(saved), ups = gates + choices * inner;
                auto hidden = reinterpret_cast<float*>(workspace), inputs = hidden + choices * inner;
                return ExpertMlp<Number>{
                    matrix<const float>(x, tokens, width, x_stride),
                    reinterpret_cast<const std::int64_t*>(experts),
                    reinterpret_cast<const float*>(weights),
                    active,
                    num_experts,
                    experts_of<Number>(gate, inner, width),
                    experts_of<Number>(up, inner, width),
                    experts_of<Number>(down, width, inner),
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
            };
            auto chosen = reinterpret_cast<const std::int64_t*>(experts);
            for (long choice = 0; choice < tokens * active; ++choice)
                if (chosen[choice] < 0 || chosen[choice] >= num_experts)
                    throw nb::index_error("a token chose an expert that is none");
            nb::gil_scoped_release release;
            if (is_bfloat16)
                operations.expert_mlp_bfloat16(job(Bfloat16{}), threads);
            else
                operations.expert_mlp_float32(job(float{}), threads);
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
}

bool has_avx2() {
#ifdef __x86_64__
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
#else
    return false;
#endif
}

}  // namespace

NB_MODULE(native, module) {
    nb::list names;
#ifdef __x86_64__
    if (has_avx2()) {
        bind(module, "avx2", avx2_operations);
        names.append("avx2");
    }
#endif
    bind(module, "portable", portable_operations);
    names.append("portable");
    module.attr("instruction_sets") = names;
}

}  // namespace gorae
