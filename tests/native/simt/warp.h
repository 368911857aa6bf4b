// Operations of a warp: shuffles, votes, and the matrix instructions with the register layouts of the PTX ISA.
#pragma once

#include <cstring>

#include "simt/scheduler.h"

namespace mask2edge {

inline void __syncwarp(unsigned mask = 0xffffffffu, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    simt::warp_operation({file, line, "__syncwarp"}, mask, nullptr, [](void* const*, uint32_t) {});
}

// ---- Shuffles -------------------------------------------------------------------------------------------------------
// A lane that is read without being in the mask gives NaN.
template <typename T>
struct ShuffleOperand {
    T value, result;
    int source;  // a lane
};

template <typename T>
T shuffle(const simt::Site& site, unsigned mask, T value, int source) {
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "CUDA shuffles 4 or 8 bytes");
    ShuffleOperand<T> operand{value, value, source};
    simt::warp_operation(site, mask, &operand, [](void* const* operands, uint32_t lanes) {
        for (int lane = 0; lane < simt::kWarpSize; ++lane) {
            if ((lanes >> lane & 1) == 0) continue;
            auto& reader = *static_cast<ShuffleOperand<T>*>(operands[lane]);
            if (lanes >> reader.source & 1)
                reader.result = static_cast<ShuffleOperand<T>*>(operands[reader.source])->value;
            else
                std::memset(&reader.result, 0xff, sizeof(T));
        }
    });
    return operand.result;
}

#define MASK2EDGE_SITE const char *file = __builtin_FILE(), int line = __builtin_LINE()
template <typename T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, MASK2EDGE_SITE) {
    const int lane = simt::this_thread().lane;
    return shuffle({file, line, "__shfl_sync"}, mask, value, (lane & ~(width - 1)) | (source & (width - 1)));
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32, MASK2EDGE_SITE) {
    const int lane = simt::this_thread().lane, source = lane ^ lanes;
    return shuffle({file, line, "__shfl_xor_sync"}, mask, value,
                   source < (lane & ~(width - 1)) + width ? source : lane);
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, MASK2EDGE_SITE) {
    const int lane = simt::this_thread().lane, source = lane + static_cast<int>(delta);
    return shuffle({file, line, "__shfl_down_sync"}, mask, value,
                   source < (lane & ~(width - 1)) + width ? source : lane);
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, MASK2EDGE_SITE) {
    const int lane = simt::this_thread().lane, source = lane - static_cast<int>(delta);
    return shuffle({file, line, "__shfl_up_sync"}, mask, value, source >= (lane & ~(width - 1)) ? source : lane);
}

// ---- Votes ----------------------------------------------------------------------------------------------------------
struct VoteOperand {
    bool predicate;
    unsigned result;
};

inline unsigned __ballot_sync(unsigned mask, int predicate, MASK2EDGE_SITE) {
    VoteOperand operand{predicate != 0, 0};
    simt::warp_operation({file, line, "a vote"}, mask, &operand, [](void* const* operands, uint32_t lanes) {
        unsigned ballot = 0;
        for (int lane = 0; lane < simt::kWarpSize; ++lane)
            if (lanes >> lane & 1) ballot |= unsigned{static_cast<VoteOperand*>(operands[lane])->predicate} << lane;
        for (int lane = 0; lane < simt::kWarpSize; ++lane)
            if (lanes >> lane & 1) static_cast<VoteOperand*>(operands[lane])->result = ballot;
    });
    return operand.result;
}
inline int __any_sync(unsigned mask, int predicate, MASK2EDGE_SITE) {
    return __ballot_sync(mask, predicate, file, line) != 0;
}
inline int __all_sync(unsigned mask, int predicate, MASK2EDGE_SITE) {
    return __ballot_sync(mask, predicate, file, line) == mask;
}

// ---- ldmatrix -------------------------------------------------------------------------------------------------------
struct MatrixLoadOperand {
    const void* row;  // of matrix lane / 8, its row lane % 8: eight 2-byte elements
    uint32_t* result;
};

// Four 8x8 matrices. Lane l gets of each the elements (l / 4, 2 (l % 4)) and the one to its right; transposed, the
// elements (2 (l % 4), l / 4) and the one below.
template <bool transposed>
void load_matrices(const simt::Site& site, uint32_t (&result)[4], const void* row) {
    if (reinterpret_cast<uintptr_t>(row) % 16 != 0)
        simt::fail("ldmatrix: the address of a row is not a multiple of 16");
    MatrixLoadOperand operand{row, result};
    simt::warp_operation(site, 0xffffffffu, &operand, [](void* const* operands, uint32_t) {
        uint16_t element[4][8][8];
        for (int i = 0; i < 32; ++i)
            std::memcpy(element[i / 8][i % 8], static_cast<MatrixLoadOperand*>(operands[i])->row, 16);
        for (int lane = 0; lane < 32; ++lane)
            for (int i = 0; i < 4; ++i) {
                const int a = lane / 4, b = 2 * (lane % 4);
                const uint16_t low = transposed ? element[i][b][a] : element[i][a][b];
                const uint16_t high = transposed ? element[i][b + 1][a] : element[i][a][b + 1];
                static_cast<MatrixLoadOperand*>(operands[lane])->result[i] = low | uint32_t{high} << 16;
            }
    });
}
inline void ldmatrix_x4(uint32_t (&result)[4], const void* row, MASK2EDGE_SITE) {
    load_matrices<false>({file, line, "ldmatrix_x4"}, result, row);
}
inline void ldmatrix_x4_trans(uint32_t (&result)[4], const void* row, MASK2EDGE_SITE) {
    load_matrices<true>({file, line, "ldmatrix_x4_trans"}, result, row);
}

// ---- mma.m16n8k16 ---------------------------------------------------------------------------------------------------
struct MmaOperand {
    float* d;
    const uint32_t *a, *b;
};

// d += a b: a is 16x16, b is 16x8, d is 16x8 in fp32. With g = lane / 4 and t = lane % 4 a lane holds
//   a[0], a[1], a[2], a[3]: a(g, 2t…), a(g + 8, 2t…), a(g, 2t + 8…), a(g + 8, 2t + 8…), two neighbours of a row each
//   b[0], b[1]: b(2t…, g), b(2t + 8…, g), two neighbours of a column each
//   d[0], d[1]: d(g, 2t…);  d[2], d[3]: d(g + 8, 2t…)
template <typename T>
void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], MASK2EDGE_SITE) {
    MmaOperand operand{d, a, b};
    simt::warp_operation({file, line, "mma_m16n8k16"}, 0xffffffffu, &operand, [](void* const* operands, uint32_t) {
        float left[16][16], right[16][8];
        for (int lane = 0; lane < 32; ++lane) {
            const auto& o = *static_cast<MmaOperand*>(operands[lane]);
            const int g = lane / 4, t = lane % 4;
            for (int i = 0; i < 4; ++i) {
                const float2 pair = unpack2<T>(o.a[i]);
                float* const row = left[g + i % 2 * 8] + 2 * t + i / 2 * 8;
                row[0] = pair.x;
                row[1] = pair.y;
            }
            for (int i = 0; i < 2; ++i) {
                const float2 pair = unpack2<T>(o.b[i]);
                right[2 * t + i * 8][g] = pair.x;
                right[2 * t + i * 8 + 1][g] = pair.y;
            }
        }
        for (int lane = 0; lane < 32; ++lane)
            for (int i = 0; i < 4; ++i) {
                float& sum = static_cast<MmaOperand*>(operands[lane])->d[i];
                const int row = lane / 4 + i / 2 * 8, column = 2 * (lane % 4) + i % 2;
                for (int k = 0; k < 16; ++k) sum += left[row][k] * right[k][column];
            }
    });
}
#undef MASK2EDGE_SITE

}  // namespace mask2edge
