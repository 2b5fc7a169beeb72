// The module gorae.kernels.native: one submodule an instruction set that this processor has, the best one first, with
// functions that take addresses, sizes and strides as integers. gorae/kernels/*/cpu.py calls them, and checks first.

#include <cstdlib>
#include <memory>

#include <nanobind/nanobind.h>

#include "operations.h"

namespace nb = nanobind;

namespace gorae {

float* scratch(std::size_t floats) {
    constexpr std::size_t LINE = 64;
    struct Free {
        void operator()(float* memory) const { std::free(memory); }
    };
    thread_local std::unique_ptr<float, Free> memory;
    thread_local std::size_t held = 0;
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
