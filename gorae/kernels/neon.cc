// Every kernel for 64-bit Arm processors, all of which have NEON. Products of integers are the portable ones.

#include <algorithm>
#include <cmath>
#include <cstring>
#include <initializer_list>
#include <vector>

#include "operations.h"

#ifdef __aarch64__

#define GORAE_SET neon
#include "lanes_neon.h"
#include "integers_portable.h"
#include "every_operation.h"

#endif
