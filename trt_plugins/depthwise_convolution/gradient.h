// The gradient of a depthwise convolution on the CPU, for training: pointers in, pointers out, no framework.
//
//     const std::string problem = depthwise_problem(shape);
//     depthwise_gradient(input, weights, grad_output, grad_input, grad_weights, shape, parallel_for);
#pragma once

#include <string>

#include "common/instruction_set.h"
#include "common/parallel_for.h"
#include "depthwise_convolution/gradient_tile.h"

namespace mask2edge {

// What is wrong with the sizes, in one line; empty where nothing is.
std::string depthwise_problem(const DepthwiseShape& shape);

// Shapes as in README.md. Writes all of both gradients. Trusts the shape.
void depthwise_gradient(const float* input, const float* weights, const float* grad_output, float* grad_input,
                        float* grad_weights, const DepthwiseShape& shape, const ParallelFor& parallel_for,
                        InstructionSet set = best_instruction_set());

}  // namespace mask2edge
