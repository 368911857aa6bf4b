// Which of the compiled kernels this processor can run.
//
//     InstructionSet best = best_instruction_set();
#pragma once

#include <vector>

namespace mask2edge {

// portable: what every processor of the architecture has (SSE2 on x86-64, NEON on aarch64).
enum class InstructionSet { portable, avx2, avx512 };

const char* name(InstructionSet set);

// Slowest first. Asks the processor, and knows what was compiled in.
std::vector<InstructionSet> available_instruction_sets();

// Asked once per process.
InstructionSet best_instruction_set();

}  // namespace mask2edge
