// Messages to whoever uses TensorRT: through the logger that TensorRT names, else to stderr; never lost.
//
//     log_message(nvinfer1::ILogger::Severity::kERROR, "MaskedAttention: query must be …");
#pragma once

#include <NvInferRuntime.h>

#include <exception>
#include <string>

namespace mask2edge {

using Severity = nvinfer1::ILogger::Severity;

// TensorRT calls this once, through the library's setLoggerFinder(). The pointer is the only state of the library.
void set_logger_finder(nvinfer1::ILoggerFinder* finder) noexcept;

void log_message(Severity severity, const std::string& message) noexcept;

// Runs the body of a function that TensorRT called: what it throws is logged, and the caller gets `on_failure`.
template <typename Result, typename Body>
Result guarded(const char* op, Result on_failure, const Body& body) noexcept {
    try {
        return body();
    } catch (const std::exception& error) {
        // Built in pieces: a message must not throw where memory is short.
        try {
            log_message(Severity::kERROR, std::string(op) + ": " + error.what());
        } catch (...) {
        }
    } catch (...) {
    }
    return on_failure;
}

}  // namespace mask2edge
