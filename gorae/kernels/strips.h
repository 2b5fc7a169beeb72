// Where the rows of int8 lie that integers_*.h multiply by panels.
//
// A strip is some rows, R of them, side by side. For each group of 32 inputs, of which there are two a block: R float32
// scales; R int32, to which the sums of products are added; then 8 quads of inputs, each R · 4 int8.

#pragma once

namespace gorae::GORAE_SET {

constexpr int GROUP = 32;            // inputs that share a scale
constexpr int QUAD = 4;              // inputs whose products one instruction adds
constexpr int QUADS = GROUP / QUAD;
constexpr int ROUNDED_BYTES = 2 * 4 + GROUP;  // that a group of a row takes

constexpr int SCALE_BYTES = 2 * 16 * 2;  // of a block of a panel, before its numbers
constexpr int group_bytes(int bits) { return GROUP * 16 * bits / 8; }
constexpr int block_bytes(int bits) { return SCALE_BYTES + 2 * group_bytes(bits); }

}  // namespace gorae::GORAE_SET
