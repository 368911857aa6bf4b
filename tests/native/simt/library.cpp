// libmask2edge_simt.so: the plugin library's C functions on host pointers, for Python's tests.
//
//     library = ctypes.CDLL("libmask2edge_simt.so")
//     library.mask2edge_simt_configure(2, 7, 1)  # shuffled with seed 7, lazy copies
#include <cstdint>

#include "simt/scheduler.h"

#define MASK2EDGE_EXPORT extern "C" __attribute__((visibility("default")))

// order: 0 forward, 1 reverse, 2 shuffled
MASK2EDGE_EXPORT void mask2edge_simt_configure(int32_t order, uint64_t seed, int32_t lazy_copies) {
    simt::options() = {static_cast<simt::Order>(order), seed, lazy_copies != 0};
}

// What the last failed launch did wrong.
MASK2EDGE_EXPORT const char* mask2edge_simt_last_report() { return simt::last_report().c_str(); }

// As the plugin library's own (trt_plugins/tensorrt/register.cpp): the version of the ops.
MASK2EDGE_EXPORT int32_t mask2edge_op_version() { return 1; }
