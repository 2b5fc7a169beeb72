// The kernels of one instruction set: GORAE_SET names it, and its lanes have been included before.

#include "threads.h"
#include "linear/cpu.cc"

#define GORAE_JOIN(set, name) set##_##name
#define GORAE_NAMED(set, name) GORAE_JOIN(set, name)

namespace gorae {

const Operations GORAE_NAMED(GORAE_SET, operations) = {
    GORAE_SET::linear<float>,
    GORAE_SET::linear<Bfloat16>,
};

}  // namespace gorae
