// Work over PyTorch's own OpenMP threads (torch is imported first, so both share one runtime), with one rule of
// arithmetic on all of them: round to nearest, and never flush a denormal number to zero, whatever the caller set.

#pragma once

#ifdef __SSE2__
#include <xmmintrin.h>
#endif

namespace gorae::GORAE_SET {

class PlainArithmetic {
#if defined(__aarch64__)
    std::uint64_t before;

    static void set(std::uint64_t control) { asm volatile("msr fpcr, %0" : : "r"(control) : "memory"); }

  public:
    PlainArithmetic() {
        asm volatile("mrs %0, fpcr" : "=r"(before) : : "memory");
        if (before != 0) set(0);
    }
    ~PlainArithmetic() {
        if (before != 0) set(before);
    }
#elif defined(__SSE2__)
    static constexpr unsigned ROUND_TO_NEAREST_AND_KEEP_DENORMALS = 0x1f80;
    unsigned before = _mm_getcsr();

  public:
    PlainArithmetic() {
        if (before != ROUND_TO_NEAREST_AND_KEEP_DENORMALS) _mm_setcsr(ROUND_TO_NEAREST_AND_KEEP_DENORMALS);
    }
    ~PlainArithmetic() {
        if (before != ROUND_TO_NEAREST_AND_KEEP_DENORMALS) _mm_setcsr(before);
    }
#else
  public:
    PlainArithmetic() {}
    ~PlainArithmetic() {}
#endif
};

// Do work(0) … work(tasks - 1), each once, on any thread in any order.
template <class Work>
inline void share(long tasks, int threads, const Work& work) {
    if (threads <= 1 || tasks <= 1) {
        PlainArithmetic rule;
        for (long task = 0; task < tasks; ++task) work(task);
        return;
    }
#pragma omp parallel num_threads(threads < tasks ? threads : static_cast<int>(tasks))
    {
        PlainArithmetic rule;
#pragma omp for schedule(dynamic)
        for (long task = 0; task < tasks; ++task) work(task);
    }
}

}  // namespace gorae::GORAE_SET
