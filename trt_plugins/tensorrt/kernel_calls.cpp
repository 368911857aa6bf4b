// The operators' kernels as C functions, without TensorRT around them: benchmarks/gpu/launched_ops.py and the tests
// call them through ctypes. Device pointers in, a cudaError_t out.
//
//     int64_t sizes[] = {1, 100, 4096, 8, 32};                                   // N, Q, S, M, D
//     void* tensors[] = {query, key, value, mask_logits, output, workspace};
//     int32_t error = mask2edge_masked_attention(sizes, /* DataType::float16 */ 1, tensors, stream);
#include "masked_attention/launch.h"
#include "multiscale_deformable_attention/launch.h"

#define MASK2EDGE_EXPORT extern "C" __attribute__((visibility("default")))

using namespace mask2edge;

// sizes: N, Lq, S, M, D, P, 1 for shared reference points, L. tensors: value, offsets, logits, reference points,
// spatial shapes, output.
MASK2EDGE_EXPORT int32_t mask2edge_deformable_attention(const int64_t* sizes, int32_t value_type, int32_t sampling_type,
                                                        void* const* tensors, void* stream) {
    DeformableAttentionShape shape{sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], sizes[5], sizes[6] != 0, {}};
    shape.levels.resize(static_cast<std::size_t>(sizes[7]));
    return launch_deformable_attention(
        shape,
        {static_cast<DataType>(value_type), static_cast<DataType>(sampling_type), tensors[0], tensors[1], tensors[2],
         static_cast<const float*>(tensors[3]), static_cast<const int32_t*>(tensors[4]), tensors[5]},
        static_cast<cudaStream_t>(stream));
}

// Bytes. sizes: N, Q, S, M, D
MASK2EDGE_EXPORT int64_t mask2edge_masked_attention_workspace(const int64_t* sizes) {
    return static_cast<int64_t>(masked_attention_workspace({sizes[0], sizes[1], sizes[2], sizes[3], sizes[4]}));
}

// tensors: query, key, value, mask logits, output, workspace
MASK2EDGE_EXPORT int32_t mask2edge_masked_attention(const int64_t* sizes, int32_t type, void* const* tensors,
                                                    void* stream) {
    return launch_masked_attention({sizes[0], sizes[1], sizes[2], sizes[3], sizes[4]},
                                   {static_cast<DataType>(type), tensors[0], tensors[1], tensors[2],
                                    static_cast<const float*>(tensors[3]), tensors[4], tensors[5]},
                                   static_cast<cudaStream_t>(stream));
}
