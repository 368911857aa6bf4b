// What the kernel tests share: memory of exactly the size asked for, numbers, a count of failures.
//
//     Buffer<half_t> value = normals<half_t>(count);
//     for (const Options& schedule : all_schedules()) { use(schedule); … launch …; expect_close("my_op", output,
//     expected, 1e-5); } return finish();
#pragma once

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <initializer_list>
#include <random>
#include <string>
#include <vector>

#include "common/cuda.cuh"
#include "common/data_type.h"

namespace simt {

// Zeros, aligned as cudaMalloc aligns; AddressSanitizer sees what reaches beyond the last element.
template <typename T>
class Buffer {
  public:
    explicit Buffer(std::size_t size = 0) : size_(size) {
        if (posix_memalign(reinterpret_cast<void**>(&data_), 256, size * sizeof(T) + (size == 0)) != 0) std::abort();
        fill_bytes(0);
    }
    Buffer(Buffer&& other) noexcept : data_(other.data_), size_(other.size_) { other.data_ = nullptr, other.size_ = 0; }
    Buffer& operator=(Buffer&& other) noexcept {
        std::swap(data_, other.data_);
        std::swap(size_, other.size_);
        return *this;
    }
    ~Buffer() { std::free(data_); }

    void fill_bytes(int byte) { std::memset(static_cast<void*>(data_), byte, size_ * sizeof(T)); }
    std::size_t size() const { return size_; }
    T* data() { return data_; }
    const T* data() const { return data_; }
    T& operator[](std::size_t i) { return data_[i]; }
    const T& operator[](std::size_t i) const { return data_[i]; }
    T* begin() { return data_; }
    T* end() { return data_ + size_; }
    const T* begin() const { return data_; }
    const T* end() const { return data_ + size_; }

  private:
    T* data_ = nullptr;
    std::size_t size_;
};

inline std::mt19937_64& random_bits() {
    static std::mt19937_64 bits;
    return bits;
}
inline int64_t between(int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(random_bits());
}
template <typename T>
T one_of(std::initializer_list<T> choices) {
    return choices.begin()[between(0, static_cast<int64_t>(choices.size()) - 1)];
}
inline float normal(float scale = 1) { return std::normal_distribution<float>(0, scale)(random_bits()); }

template <typename T>
Buffer<T> normals(int64_t count, float scale = 1) {
    Buffer<T> values(static_cast<std::size_t>(count));
    for (T& value : values) value = mask2edge::from_float<T>(normal(scale));
    return values;
}

inline int& failures() {
    static int count = 0;
    return count;
}
inline void expect(bool truth, const std::string& what) {
    if (truth) return;
    std::printf("FAILED %s\n", what.c_str());
    ++failures();
}

// |got - expected| <= tolerance everywhere; NaN is never close.
template <typename T>
void expect_close(const std::string& what, const Buffer<T>& got, const std::vector<double>& expected,
                  double tolerance) {
    expect(got.size() == expected.size(), what + ": sizes differ");
    for (std::size_t i = 0; i < got.size() && i < expected.size(); ++i) {
        const double value = mask2edge::to_float(got[i]);
        if (std::abs(value - expected[i]) <= tolerance) continue;
        char text[128];
        std::snprintf(text, sizeof text, ": expected %.9g at %zu, got %.9g (tolerance %.3g)", expected[i], i, value,
                      tolerance);
        return expect(false, what + text);
    }
}

// Sets each schedule in turn:  for (const Options& schedule : all_schedules()) { use(schedule); … }
inline void use(const Options& schedule) { options() = schedule; }

inline void expect_success(const std::string& what, cudaError_t status) {
    expect(status == cudaSuccess, what + ": error " + std::to_string(status) + ", " + last_report());
}

inline int finish() {
    std::printf(failures() == 0 ? "passed\n" : "%d failures\n", failures());
    return failures() == 0 ? 0 : 1;
}

}  // namespace simt
