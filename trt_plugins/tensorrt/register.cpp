// What the library exports for TensorRT and for the runtime. Nothing is registered on loading:
//
//     registry.load_library("libmask2edge_tensorrt.so")     # TensorRT calls setLoggerFinder() and getCreators()
#include <NvInferRuntime.h>

#include "masked_attention/plugin.h"
#include "multiscale_deformable_attention/plugin.h"
#include "tensorrt/log.h"
#include "tensorrt/plugin.h"
#include "tensorrt/version.h"

#define MASK2EDGE_EXPORT extern "C" __attribute__((visibility("default")))

MASK2EDGE_EXPORT nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& count) {
    static mask2edge::OpCreator deformable_attention(mask2edge::deformable_attention_op());
    static mask2edge::OpCreator masked_attention(mask2edge::masked_attention_op());
    static nvinfer1::IPluginCreatorInterface* const creators[] = {&deformable_attention, &masked_attention};
    count = static_cast<int32_t>(sizeof(creators) / sizeof(creators[0]));
    return creators;
}

MASK2EDGE_EXPORT void setLoggerFinder(nvinfer1::ILoggerFinder* finder) { mask2edge::set_logger_finder(finder); }

// The runtime refuses a library of another version than its own before it calls anything else in it.
MASK2EDGE_EXPORT int32_t mask2edge_op_version() { return mask2edge::kOpVersion; }
