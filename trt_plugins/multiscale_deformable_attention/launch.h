// MultiscaleDeformableAttention on CUDA: pointers in, pointers out, no framework.
//
//     const std::string problem = deformable_attention_unsupported(shape);   // "" or one line
//     cudaError_t status = launch_deformable_attention(shape, tensors, stream);
#pragma once

#include <cuda_runtime_api.h>

#include <string>

#include "common/data_type.h"
#include "multiscale_deformable_attention/shape.h"

namespace mask2edge {

// Contiguous, on the device, each at an address that is a multiple of 16; shapes as in README.md.
struct DeformableAttentionTensors {
    DataType value_type;     // of value and output
    DataType sampling_type;  // of offsets and logits: value_type or float32
    const void *value, *offsets, *logits;
    const float* reference_points;
    const int32_t* spatial_shapes;  // [L, 2]; the host never reads it
    void* output;
};

// "", or why the kernel cannot do this shape. `value_type` matters for the head size alone: a multiple of 8, or of 4 in
// float32.
std::string deformable_attention_unsupported(const DeformableAttentionShape& shape,
                                             DataType value_type = DataType::float16);

// Writes all of output. Trusts the shape: it comes from deformable_attention_shape(), which checks; of its levels only
// the number is used. Where spatial_shapes does not fit value's S, nothing out of bounds is read and the output is NaN.
// cudaErrorInvalidValue: an unsupported shape, sampling type or address.
cudaError_t launch_deformable_attention(const DeformableAttentionShape& shape,
                                        const DeformableAttentionTensors& tensors, cudaStream_t stream);

}  // namespace mask2edge
