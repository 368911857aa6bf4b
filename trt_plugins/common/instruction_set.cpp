#include "common/instruction_set.h"

namespace mask2edge {

const char* name(InstructionSet set) {
    switch (set) {
        case InstructionSet::avx512:
            return "avx512";
        case InstructionSet::avx2:
            return "avx2";
        default:
            return "portable";
    }
}

std::vector<InstructionSet> available_instruction_sets() {
    std::vector<InstructionSet> sets{InstructionSet::portable};
#ifdef MASK2EDGE_HAS_X86_KERNELS
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) sets.push_back(InstructionSet::avx2);
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl"))
        sets.push_back(InstructionSet::avx512);
#endif
    return sets;
}

InstructionSet best_instruction_set() {
    static const InstructionSet best = available_instruction_sets().back();
    return best;
}

}  // namespace mask2edge
