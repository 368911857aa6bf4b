// Softmax over the classes of a query, by a warp.
//
//     const BestClass best = best_class(logits, classes + 1);
//     float probability = class_probability(logits[k], best);
#pragma once

#include <cfloat>

#include "common/cuda.cuh"
#include "segment_fusion/segment_table.cuh"

namespace mask2edge {

struct BestClass {
    int label;       // the first of the highest
    float logit;     // its logit
    float sum;       // of exp(logit - that)
    bool is_finite;  // all logits are
};

__device__ inline float class_probability(float logit, const BestClass& best) {
    return expf(logit - best.logit) / best.sum;
}

__device__ inline bool is_finite_number(float x) { return fabsf(x) <= FLT_MAX; }

// Every lane gets the result. Logits that are not finite: no object.
__device__ inline BestClass best_class(const float* logits, int count) {
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    BestClass best{INT_MAX, -FLT_MAX, 0.0f, true};
    for (int i = lane; i < count; i += kWarp) {
        const float logit = logits[i];
        if (!is_finite_number(logit)) best.is_finite = false;
        if (logit > best.logit || best.label == INT_MAX) {
            best.logit = logit;
            best.label = i;
        }
    }
    for (int lanes_away = kWarp / 2; lanes_away > 0; lanes_away /= 2) {
        const float logit = __shfl_xor_sync(kWholeWarp, best.logit, lanes_away);
        const int label = __shfl_xor_sync(kWholeWarp, best.label, lanes_away);
        if (logit > best.logit || (logit == best.logit && label < best.label)) {
            best.logit = logit;
            best.label = label;
        }
    }
    best.is_finite = __all_sync(kWholeWarp, best.is_finite);
    if (!best.is_finite) return {count - 1, 0.0f, 1.0f, false};  // a label that exists, whatever compares with NaN
    for (int i = lane; i < count; i += kWarp) best.sum += expf(logits[i] - best.logit);
    for (int lanes_away = kWarp / 2; lanes_away > 0; lanes_away /= 2)
        best.sum += __shfl_xor_sync(kWholeWarp, best.sum, lanes_away);
    return best;
}

}  // namespace mask2edge
