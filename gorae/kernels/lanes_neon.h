// Eight floats side by side in two NEON registers. Every operation rounds once, to nearest, as lanes_portable.h does.

#pragma once

#include <arm_neon.h>

namespace gorae::GORAE_SET {

struct Lanes {
    float32x4_t left, right;
};

inline Lanes zero() { return {vdupq_n_f32(0.0f), vdupq_n_f32(0.0f)}; }
inline Lanes broadcast(float number) { return {vdupq_n_f32(number), vdupq_n_f32(number)}; }
inline Lanes load(const float* from) { return {vld1q_f32(from), vld1q_f32(from + 4)}; }
inline void store(float* to, Lanes a) {
    vst1q_f32(to, a.left);
    vst1q_f32(to + 4, a.right);
}
inline Lanes operator+(Lanes a, Lanes b) { return {vaddq_f32(a.left, b.left), vaddq_f32(a.right, b.right)}; }
inline Lanes operator-(Lanes a, Lanes b) { return {vsubq_f32(a.left, b.left), vsubq_f32(a.right, b.right)}; }
inline Lanes operator*(Lanes a, Lanes b) { return {vmulq_f32(a.left, b.left), vmulq_f32(a.right, b.right)}; }
inline Lanes operator/(Lanes a, Lanes b) { return {vdivq_f32(a.left, b.left), vdivq_f32(a.right, b.right)}; }

// a · b + c, rounded once
inline Lanes fused(Lanes a, Lanes b, Lanes c) {
    return {vfmaq_f32(c.left, a.left, b.left), vfmaq_f32(c.right, a.right, b.right)};
}

// Of a bound and numbers, lane by lane; what is no number stays so. NEON's own minimum and maximum spread it from either.
inline float32x4_t lesser(float32x4_t bound, float32x4_t a) { return vbslq_f32(vcltq_f32(bound, a), bound, a); }
inline float32x4_t greater(float32x4_t bound, float32x4_t a) { return vbslq_f32(vcgtq_f32(bound, a), bound, a); }
inline Lanes lesser(Lanes bound, Lanes a) { return {lesser(bound.left, a.left), lesser(bound.right, a.right)}; }
inline Lanes greater(Lanes bound, Lanes a) { return {greater(bound.left, a.left), greater(bound.right, a.right)}; }

// 2^n of integers n from -126 to 127
inline float32x4_t power_of_two(float32x4_t n) {
    return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(vcvtnq_s32_f32(n), vdupq_n_s32(127)), 23));
}
inline Lanes power_of_two(Lanes n) { return {power_of_two(n.left), power_of_two(n.right)}; }

// The sums of four, each ((0 + 1) + (2 + 3)) + ((4 + 5) + (6 + 7)) of its lanes, side by side.
inline void store_sums(float* to, Lanes a, Lanes b, Lanes c, Lanes d) {
    const float32x4_t ab = vpaddq_f32(vpaddq_f32(a.left, a.right), vpaddq_f32(b.left, b.right));
    const float32x4_t cd = vpaddq_f32(vpaddq_f32(c.left, c.right), vpaddq_f32(d.left, d.right));
    vst1q_f32(to, vpaddq_f32(ab, cd));
}

inline uint16x8_t bits_of(const Bfloat16* from) { return vld1q_u16(reinterpret_cast<const std::uint16_t*>(from)); }

inline Lanes load(const Bfloat16* from) {
    const uint16x8_t bits = bits_of(from);
    return {vreinterpretq_f32_u32(vshll_n_u16(vget_low_u16(bits), 16)),
            vreinterpretq_f32_u32(vshll_n_u16(vget_high_u16(bits), 16))};
}

inline Lanes load(const RowByte* from) {
    const int16x8_t wide = vmovl_s8(vld1_s8(reinterpret_cast<const std::int8_t*>(from)));
    return {vcvtq_f32_s32(vmovl_s16(vget_low_s16(wide))), vcvtq_f32_s32(vmovl_s16(vget_high_s16(wide)))};
}

// Sixteen bfloat16 of a panel: numbers 0 to 7 lie in the lower halves of 32 bits, 8 to 15 in the upper ones.
inline void load_halves(const Bfloat16* from, Lanes& left, Lanes& right) {
    const uint32x4_t first = vreinterpretq_u32_u16(bits_of(from)), second = vreinterpretq_u32_u16(bits_of(from + 8));
    const uint32x4_t upper = vdupq_n_u32(0xffff0000);
    left = {vreinterpretq_f32_u32(vshlq_n_u32(first, 16)), vreinterpretq_f32_u32(vshlq_n_u32(second, 16))};
    right = {vreinterpretq_f32_u32(vandq_u32(first, upper)), vreinterpretq_f32_u32(vandq_u32(second, upper))};
}

// Eight float8: as float16 they stand for 2^-8 of their values, and only NaN has to be made.
inline Lanes load(const Float8* from) {
    const int16x8_t magnitude = vdupq_n_s16(0x3f80);
    const int16x8_t wide = vshlq_n_s16(vmovl_s8(vld1_s8(reinterpret_cast<const std::int8_t*>(from))), 7);
    const int16x8_t is_nan = vreinterpretq_s16_u16(vceqq_s16(vandq_s16(wide, magnitude), magnitude));
    const int16x8_t kept = vandq_s16(wide, vdupq_n_s16(static_cast<std::int16_t>(0xbf80)));
    const int16x8_t bits = vorrq_s16(kept, vandq_s16(is_nan, vdupq_n_s16(0x7e00)));
    const float16x8_t halves = vreinterpretq_f16_s16(bits);
    return Lanes{vcvt_f32_f16(vget_low_f16(halves)), vcvt_f32_f16(vget_high_f16(halves))} * broadcast(256.0f);
}

// Four columns of four rows.
inline void transpose(const float32x4_t rows[4], float32x4_t columns[4]) {
    const float32x4x2_t upper = vtrnq_f32(rows[0], rows[1]), lower = vtrnq_f32(rows[2], rows[3]);
    for (int j = 0; j < 2; ++j) {
        columns[j] = vcombine_f32(vget_low_f32(upper.val[j]), vget_low_f32(lower.val[j]));
        columns[j + 2] = vcombine_f32(vget_high_f32(upper.val[j]), vget_high_f32(lower.val[j]));
    }
}

// Eight columns of eight rows from column `first` on: lane i of columns[j] is number first + j of row i.
template <class Number>
inline void load_columns(const Number* const rows[8], long first, Lanes columns[8]) {
    float32x4_t left[8], right[8], turned[4][4];
    for (int i = 0; i < 8; ++i) {
        const Lanes row = load(rows[i] + first);
        left[i] = row.left;
        right[i] = row.right;
    }
    transpose(left, turned[0]);
    transpose(left + 4, turned[1]);
    transpose(right, turned[2]);
    transpose(right + 4, turned[3]);
    for (int j = 0; j < 4; ++j) {
        columns[j] = {turned[0][j], turned[1][j]};
        columns[j + 4] = {turned[2][j], turned[3][j]};
    }
}

}  // namespace gorae::GORAE_SET
