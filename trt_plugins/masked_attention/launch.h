// MaskedAttention on a CUDA stream: device pointers in, device pointers out, no framework.
//
//     if (std::string problem = masked_attention_unsupported(shape); !problem.empty()) ...
//     cudaMalloc(&tensors.workspace, masked_attention_workspace(shape));
//     cudaError_t status = launch_masked_attention(shape, tensors, stream);
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <string>

#include "common/data_type.h"
#include "masked_attention/shape.h"

namespace mask2edge {

// Contiguous, shapes as in README.md, 16-byte aligned. query, key, value and output have the same type.
struct MaskedAttentionTensors {
    DataType type;
    const void *query, *key, *value;
    const float* mask_logits;
    void* output;
    void* workspace;  // masked_attention_workspace() bytes; holds nothing between launches
};

// "" or why there is no CUDA kernel for this shape: expected and got.
std::string masked_attention_unsupported(const MaskedAttentionShape& shape);

// Bytes; never less for a shape that is larger in some size, so that the largest shape of a profile serves all.
std::size_t masked_attention_workspace(const MaskedAttentionShape& shape);

// How many blocks share the keys of the same queries. From the shape alone: results do not depend on the device.
int64_t masked_attention_splits(const MaskedAttentionShape& shape);

// Starts the kernels and returns; writes all of output. cudaErrorInvalidValue where the shape is not supported.
cudaError_t launch_masked_attention(const MaskedAttentionShape& shape, const MaskedAttentionTensors& tensors,
                                    cudaStream_t stream);

}  // namespace mask2edge
