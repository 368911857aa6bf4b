// half_t and bfloat16_t in software: storage, and conversion with rounding to nearest even as the GPU's.
#pragma once

#include <cstdint>
#include <cstring>

#include "simt/cuda_runtime_api.h"

namespace mask2edge {

struct half_t {
    uint16_t bits;
};
struct bfloat16_t {
    uint16_t bits;
};

inline uint32_t float_bits(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    return bits;
}
inline float float_of_bits(uint32_t bits) {
    float x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
}

inline float to_float(float x) { return x; }

inline float to_float(bfloat16_t x) { return float_of_bits(uint32_t{x.bits} << 16); }

inline float to_float(half_t x) {
    const uint32_t sign = uint32_t{x.bits} >> 15 << 31, magnitude = x.bits & 0x7fffu;
    if (magnitude >= 0x7c00u) return float_of_bits(sign | 0x7f800000u | (magnitude & 0x3ffu) << 13);  // infinity, NaN
    // The same digits with half's exponent in float's place are 2^112 too small, subnormal or not.
    return float_of_bits(sign | float_bits(float_of_bits(magnitude << 13) * 0x1p112f));
}

template <typename T>
T from_float(float x);

template <>
inline float from_float<float>(float x) {
    return x;
}

template <>
inline bfloat16_t from_float<bfloat16_t>(float x) {
    const uint32_t bits = float_bits(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return {0x7fff};
    return {static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1)) >> 16)};
}

template <>
inline half_t from_float<half_t>(float x) {
    const uint32_t bits = float_bits(x), sign = bits >> 31 << 15, magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return {0x7fff};
    if (magnitude >= 0x477ff000u) return {static_cast<uint16_t>(sign | 0x7c00u)};  // 65520 and above
    if (magnitude < 0x38800000u) {  // below 2^-14: a multiple of 2^-24, rounded by the addition
        const float shifted = float_of_bits(magnitude) + 0.5f;
        return {static_cast<uint16_t>(sign | (float_bits(shifted) - float_bits(0.5f)))};
    }
    const uint32_t rounded = magnitude + 0xfffu + (magnitude >> 13 & 1);
    return {static_cast<uint16_t>(sign | (rounded - 0x38000000u) >> 13)};
}

template <typename T>
uint32_t pack2(float low, float high) {
    return from_float<T>(low).bits | uint32_t{from_float<T>(high).bits} << 16;
}

template <typename T>
float2 unpack2(uint32_t pair) {
    return {to_float(T{static_cast<uint16_t>(pair)}), to_float(T{static_cast<uint16_t>(pair >> 16)})};
}

}  // namespace mask2edge
