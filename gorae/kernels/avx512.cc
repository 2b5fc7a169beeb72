// Every kernel for x86 processors with AVX-512 F, BW, VL and VNNI. Floats go eight at a time as in avx2.cc, with twice
// the registers; bytes go 64 at a time. Standard headers come before the pragma, as there.

#include <algorithm>
#include <cmath>
#include <cstring>
#include <initializer_list>

#include "operations.h"

#ifdef __x86_64__

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // GCC 12 warns of its own intrinsics
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif

#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni"))), \
                             apply_to = function)
#else
#pragma GCC target("avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")
#endif

#define GORAE_SET avx512
#include "lanes_avx2.h"
#include "integers_avx512.h"
#include "every_operation.h"

#ifdef __clang__
#pragma clang attribute pop
#endif

#endif
