// e to the x, the same polynomial for every lane: within 1e-7 of the value, and gradual down to the smallest denormal.

#pragma once

namespace gorae::GORAE_SET {

inline Lanes nearest_integer(Lanes x) {
    const Lanes shift = broadcast(12582912.0f);  // 1.5 · 2^23: from here on, floats are the integers
    return (x + shift) - shift;
}

// x = n ln 2 + r with |r| <= ln 2 / 2, so e^x = 2^n e^r. Beyond -104 and 89 lie 0 and infinity.
inline Lanes exponential(Lanes x) {
    x = lesser(broadcast(89.0f), greater(broadcast(-104.0f), x));
    const Lanes n = nearest_integer(x * broadcast(1.44269504f));
    // ln 2 in two floats, so that r is exact to the last bits
    Lanes r = fused(n, broadcast(-0.693147182f), x);
    r = fused(n, broadcast(1.90465430e-9f), r);
    Lanes sum = broadcast(1.0f / 5040);  // the series of e^r: what follows r^7 is below 1e-8
    sum = fused(sum, r, broadcast(1.0f / 720));
    sum = fused(sum, r, broadcast(1.0f / 120));
    sum = fused(sum, r, broadcast(1.0f / 24));
    sum = fused(sum, r, broadcast(1.0f / 6));
    sum = fused(sum, r, broadcast(0.5f));
    sum = fused(sum, r, broadcast(1.0f));
    sum = fused(sum, r, broadcast(1.0f));
    const Lanes half = nearest_integer(n * broadcast(0.5f));  // in two factors: 2^n itself may be no normal float
    return sum * power_of_two(half) * power_of_two(n - half);
}

inline Lanes logistic(Lanes x) {
    const Lanes one = broadcast(1.0f);
    return one / (one + exponential(zero() - x));
}

inline Lanes silu_times(Lanes gate, Lanes up) { return gate * logistic(gate) * up; }

}  // namespace gorae::GORAE_SET
