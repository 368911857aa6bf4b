#include "preprocess/c_api.h"

#include <algorithm>
#include <cstring>
#include <string>

using namespace mask2edge;

int32_t mask2edge_preprocess_problem(const PreprocessShape* shape, const Normalisation* normalisation, char* text,
                                     int32_t capacity) {
    const std::string problem = preprocess_problem(*shape, *normalisation);
    if (capacity > 0) {
        const std::size_t length = std::min(problem.size(), static_cast<std::size_t>(capacity) - 1);
        std::memcpy(text, problem.data(), length);
        text[length] = '\0';
    }
    return static_cast<int32_t>(problem.size());
}

int32_t mask2edge_preprocess(const PreprocessShape* shape, const Normalisation* normalisation, const uint8_t* image,
                             float* pixels, void* stream) {
    if (!preprocess_problem(*shape, *normalisation).empty()) return cudaErrorInvalidValue;
    return launch_preprocess(*shape, *normalisation, image, pixels, static_cast<cudaStream_t>(stream));
}
