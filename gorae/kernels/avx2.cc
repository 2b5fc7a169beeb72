// Every kernel for x86 processors with AVX2, FMA and F16C. Standard headers come before the pragma, so that no function
// of theirs is compiled for these processors alone and then linked into the portable kernels.

#include <algorithm>
#include <cmath>
#include <cstring>
#include <initializer_list>

#include "operations.h"

#ifdef __x86_64__

#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC target("avx2,fma,f16c")
#endif

#define GORAE_SET avx2
#include "lanes_avx2.h"
#include "integers_avx2.h"
#include "every_operation.h"

#ifdef __clang__
#pragma clang attribute pop
#endif

#endif
