// The one way to start a kernel, on a device and in the tests; and from a DataType to the type itself.
//
//     return with_type(tensors.type, [&](auto zero) {
//         return launch_kernel(my_kernel<decltype(zero)>, grid, block, shared_bytes, stream, arguments...);
//     });
//
// Returns the launch's own error; what goes wrong inside of the kernel shows when the stream is waited for.
#pragma once

#include "common/cuda.cuh"
#include "common/data_type.h"

namespace mask2edge {

template <typename Body>
cudaError_t with_type(DataType type, const Body& body) {
    switch (type) {
        case DataType::float32:
            return body(float{});
        case DataType::float16:
            return body(half_t{});
        case DataType::bfloat16:
            return body(bfloat16_t{});
    }
    return cudaErrorInvalidValue;
}

#if defined(__CUDACC__)

template <typename... Parameters, typename... Arguments>
cudaError_t launch_kernel(void (*kernel)(Parameters...), dim3 grid, dim3 block, std::size_t dynamic_shared_bytes,
                          cudaStream_t stream, Arguments&&... arguments) {
    if (dynamic_shared_bytes > 48 * 1024) {  // what a block gets without asking
        const cudaError_t status =
            cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 static_cast<int>(dynamic_shared_bytes));
        if (status != cudaSuccess) return status;
    }
    cudaLaunchConfig_t configuration{};
    configuration.gridDim = grid;
    configuration.blockDim = block;
    configuration.dynamicSmemBytes = dynamic_shared_bytes;
    configuration.stream = stream;
    return cudaLaunchKernelEx(&configuration, kernel, static_cast<Parameters>(arguments)...);
}

#else

template <typename... Parameters, typename... Arguments>
cudaError_t launch_kernel(void (*kernel)(Parameters...), dim3 grid, dim3 block, std::size_t dynamic_shared_bytes,
                          cudaStream_t, Arguments&&... arguments) {
    return simt::run_grid(grid, block, dynamic_shared_bytes, [&] { kernel(static_cast<Parameters>(arguments)...); });
}

#endif

}  // namespace mask2edge
