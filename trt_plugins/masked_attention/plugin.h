// MaskedAttention as TensorRT sees it. The plugin and its creator: tensorrt/plugin.h.
#pragma once

#include "tensorrt/op.h"

namespace mask2edge {

const Op& masked_attention_op();

}  // namespace mask2edge
