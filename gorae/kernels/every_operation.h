// The kernels of one instruction set: GORAE_SET names it, and its lanes have been included before.

#include "attention/cpu.cc"
#include "byte_rows/cpu.cc"
#include "experts/cpu.cc"
#include "experts/quantised.cc"
#include "linear/cpu.cc"
#include "log_softmax/cpu.cc"
#include "paged_attention/cpu.cc"
#include "peak/cpu.cc"
#include "linear/quantised.cc"
#include "rms_norm/cpu.cc"
#include "rotary/cpu.cc"
#include "routing/cpu.cc"
#include "sigmoid/cpu.cc"
#include "swiglu/cpu.cc"

#define GORAE_JOIN(set, name) set##_##name
#define GORAE_NAMED(set, name) GORAE_JOIN(set, name)

namespace gorae {

const Operations GORAE_NAMED(GORAE_SET, operations) = {
    {GORAE_SET::linear<Matrix<const float>>, GORAE_SET::expert_mlp<Matrix<const float>>},
    {GORAE_SET::linear<Matrix<const Bfloat16>>, GORAE_SET::expert_mlp<Matrix<const Bfloat16>>},
    {GORAE_SET::linear<HalfPanels>, GORAE_SET::expert_mlp<HalfPanels>},
    {GORAE_SET::linear<BlockScaled>, GORAE_SET::expert_mlp<BlockScaled>},
    GORAE_SET::attention,
    GORAE_SET::paged_attention<float>,
    GORAE_SET::paged_attention<Bfloat16>,
    GORAE_SET::paged_attention<RowByte>,
    GORAE_SET::byte_rows,
    GORAE_SET::rms_norm,
    GORAE_SET::sigmoid,
    GORAE_SET::swiglu,
    GORAE_SET::multiply_add,
    GORAE_SET::multiply_add_bytes,
    GORAE_SET::panel_linear,
    GORAE_SET::panel_experts,
    GORAE_SET::log_softmax,
    GORAE_SET::rotate,
    GORAE_SET::route,
};

}  // namespace gorae
