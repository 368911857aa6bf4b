// The widest vector of floats of the instruction set that the including file is compiled for.
//
//     Floats sum = broadcast(0.0f);
//     for (int i = 0; i < n; i += kWidth) sum += load(x + i) * load(y + i);
//
// GCC's and Clang's vector extensions: +, *, <, ?: work on whole vectors, and one source serves SSE2, AVX2, AVX-512 and
// NEON. A kernel file is compiled once per instruction set, with MASK2EDGE_SIMD naming its namespace (CMakeLists.txt).
// Everything here is in that namespace, and kernel files call nothing of the standard library that could be emitted
// out of line: a function compiled for AVX-512 must not be what the linker keeps for everybody.
#pragma once

#include <cstdint>
#include <utility>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#ifndef MASK2EDGE_SIMD
#error "compile with -DMASK2EDGE_SIMD=<portable|avx2|avx512>: see CMakeLists.txt"
#endif

namespace mask2edge::MASK2EDGE_SIMD {

#if defined(__AVX512F__)
constexpr int kWidth = 16;
#elif defined(__AVX2__)
constexpr int kWidth = 8;
#else
constexpr int kWidth = 4;  // SSE2 on every x86-64, NEON on every aarch64; elsewhere the compiler makes scalars of it
#endif

typedef float Floats __attribute__((vector_size(kWidth * sizeof(float))));
typedef int32_t Ints __attribute__((vector_size(kWidth * sizeof(int32_t))));  // comparisons yield 0 or -1 in each lane

constexpr float kLowest = -3.4e38f;  // stands for minus infinity where infinity - infinity would be NaN

inline Floats broadcast(float x) { return x - Floats{}; }
inline Ints broadcast(int32_t x) { return x - Ints{}; }

inline Floats load(const float* p) {
    Floats v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
}

inline Ints load(const int32_t* p) {
    Ints v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
}

inline void store(float* p, Floats v) { __builtin_memcpy(p, &v, sizeof v); }
inline void store(int32_t* p, Ints v) { __builtin_memcpy(p, &v, sizeof v); }

// The first `count` lanes, the others zero; nothing beyond p + count is read.
inline Floats load_partial(const float* p, int count) {
#if defined(__AVX512F__)
    return (Floats)_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << count) - 1), p);
#elif defined(__AVX2__)
    const Ints lanes = {0, 1, 2, 3, 4, 5, 6, 7};
    return (Floats)_mm256_maskload_ps(p, (__m256i)(lanes < count));
#else
    Floats v{};
    for (int i = 0; i < count; ++i) v[i] = p[i];
    return v;
#endif
}

inline void store_partial(float* p, Floats v, int count) {
    for (int i = 0; i < count; ++i) p[i] = v[i];
}

// Lane i of the result is lane Indices[i] of x, or of y where Indices[i] >= kWidth.
template <int... Indices>
inline Floats shuffle(Floats x, Floats y) {
#if defined(__clang__)
    return __builtin_shufflevector(x, y, Indices...);
#else
    return __builtin_shuffle(x, y, Ints{Indices...});
#endif
}

// A NaN in x gives y.
inline Floats max(Floats x, Floats y) { return x > y ? x : y; }
inline Floats min(Floats x, Floats y) { return x < y ? x : y; }
inline Ints max(Ints x, Ints y) { return x > y ? x : y; }
inline Ints min(Ints x, Ints y) { return x < y ? x : y; }

inline Ints to_ints(Floats x) { return __builtin_convertvector(x, Ints); }
inline Floats to_floats(Ints x) { return __builtin_convertvector(x, Floats); }

// |x| < 2^31
inline Ints floor_to_ints(Floats x) {
    Ints truncated = to_ints(x);
    return truncated + (x < to_floats(truncated));  // the comparison is -1 where truncation went up
}

// The lanes with an even number of x followed by y, the pairs' first parts; with offset 1 the second parts.
template <int offset, int... I>
inline Floats every_other(Floats x, Floats y, std::integer_sequence<int, I...>) {
    return shuffle<(2 * I + offset)...>(x, y);
}
inline Floats first_of_pairs(Floats x, Floats y) {
    return every_other<0>(x, y, std::make_integer_sequence<int, kWidth>());
}
inline Floats second_of_pairs(Floats x, Floats y) {
    return every_other<1>(x, y, std::make_integer_sequence<int, kWidth>());
}

template <int step, int... I>
inline Floats rotate(Floats x, std::integer_sequence<int, I...>) {
    return shuffle<((I + step) % kWidth)...>(x, x);
}

// x combined with itself until every lane holds the result of all lanes.
template <int step = kWidth / 2, typename Combine>
inline Floats across_lanes(Floats x, const Combine& combine) {
    x = combine(x, rotate<step>(x, std::make_integer_sequence<int, kWidth>()));
    if constexpr (step > 1) x = across_lanes<step / 2>(x, combine);
    return x;
}

inline Floats sum_of_lanes(Floats x) {
    return across_lanes(x, [](Floats a, Floats b) { return a + b; });
}
inline Floats max_of_lanes(Floats x) {
    return across_lanes(x, [](Floats a, Floats b) { return max(a, b); });
}

// e^x for x <= 0 (softmax subtracts the maximum), to about 1 ulp; below -87, the smallest normal number.
// x = n ln 2 + r with |r| <= ln 2 / 2; e^r by its Taylor polynomial, whose next term is below 6e-9;
// 2^n straight into the exponent bits.
inline Floats exp_of_nonpositive(Floats x) {
    x = max(x, broadcast(-87.0f));
    const Ints n = floor_to_ints(x * 1.44269504f + 0.5f);
    const Floats steps = to_floats(n);
    const Floats r = (x - steps * 0.693145752f) - steps * 1.42860677e-6f;  // ln 2 in two parts, the first one exact
    Floats polynomial = r * (1.0f / 5040) + (1.0f / 720);
    polynomial = polynomial * r + (1.0f / 120);
    polynomial = polynomial * r + (1.0f / 24);
    polynomial = polynomial * r + (1.0f / 6);
    polynomial = polynomial * r + 0.5f;
    polynomial = polynomial * r + 1.0f;
    polynomial = polynomial * r + 1.0f;
    const Ints bits = (n + 127) << 23;
    Floats power_of_two;
    __builtin_memcpy(&power_of_two, &bits, sizeof bits);
    return polynomial * power_of_two;
}

}  // namespace mask2edge::MASK2EDGE_SIMD
