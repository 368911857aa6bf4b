// The table of segments, and how a warp adds the pixels of a row to it.
//
//     tally_row(rows, labels, left, y);  // area and box of rows[label] grow; label -1 counts nowhere
#pragma once

#include <climits>

#include "common/cuda.cuh"
#include "segment_fusion/launch.h"

namespace mask2edge {

constexpr unsigned kWholeWarp = 0xffffffffu;
constexpr int kWarp = 32;

__device__ inline void clear_segment(SegmentRow& row) { row = {0, 0, 0.0f, 0, INT_MAX, INT_MAX, 0, 0}; }

// A row of kSteps * 32 pixels from column `left`: labels[i] of a lane is that of pixel 32 i + lane. Called by whole
// warps. `scores`, where there are sums: the pixels' scores in fixed point, so that no order of additions shows in the
// sum.
template <int kSteps, bool kWithScores>
__device__ void tally_row(SegmentRow* rows, const int (&labels)[kSteps], int left, int y,
                          const unsigned long long (&scores)[kSteps], unsigned long long* sums) {
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    int waiting[kSteps];
    for (int i = 0; i < kSteps; ++i) waiting[i] = labels[i];
    while (true) {
        int mine = -1;
        for (int i = 0; i < kSteps; ++i) mine = max(mine, waiting[i]);
        const unsigned lanes = __ballot_sync(kWholeWarp, mine >= 0);
        if (lanes == 0) return;
        const int leader = __ffs(static_cast<int>(lanes)) - 1;
        const int chosen = __shfl_sync(kWholeWarp, mine, leader);
        int count = 0, first = INT_MAX, last = -1;
        unsigned long long sum = 0;
        for (int i = 0; i < kSteps; ++i) {
            const bool matches = waiting[i] == chosen;
            const unsigned matching = __ballot_sync(kWholeWarp, matches);
            if (matching != 0) {
                count += __popc(matching);
                first = min(first, kWarp * i + __ffs(static_cast<int>(matching)) - 1);
                last = kWarp * i + kWarp - 1 - __clz(static_cast<int>(matching));
            }
            if (matches) {
                waiting[i] = -1;
                if (kWithScores) sum += scores[i];
            }
        }
        if (kWithScores)
            for (int lanes_away = kWarp / 2; lanes_away > 0; lanes_away /= 2)
                sum += __shfl_xor_sync(kWholeWarp, sum, lanes_away);
        if (lane == leader) {
            SegmentRow& row = rows[chosen];
            atomicAdd(&row.area, count);
            if (kWithScores) atomicAdd(&sums[chosen], sum);
            // A box soon stops growing: looking first, at what may be an old value, saves most of the atomics.
            const volatile SegmentRow& seen = row;
            if (left + first < seen.x0) atomicMin(&row.x0, left + first);
            if (y < seen.y0) atomicMin(&row.y0, y);
            if (left + last + 1 > seen.x1) atomicMax(&row.x1, left + last + 1);
            if (y + 1 > seen.y1) atomicMax(&row.y1, y + 1);
        }
    }
}

// Among the threads of the block that want a place, in their order: the place of this one. `total`: how many want one.
// All threads call it; `warp_totals` is shared memory of theirs.
__device__ inline int place_among(bool wants, int (&warp_totals)[kWarp], int& total) {
    const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
    const unsigned wanting = __ballot_sync(kWholeWarp, wants);
    if (lane == 0) warp_totals[warp] = __popc(wanting);
    __syncthreads();
    int before = __popc(wanting & ((1u << lane) - 1));
    total = 0;
    for (int i = 0; i < static_cast<int>(blockDim.x) / kWarp; ++i) {
        before += i < warp ? warp_totals[i] : 0;
        total += warp_totals[i];
    }
    __syncthreads();
    return before;
}

}  // namespace mask2edge
