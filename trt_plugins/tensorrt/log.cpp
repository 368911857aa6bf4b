#include "tensorrt/log.h"

#include <atomic>
#include <cstdio>

namespace mask2edge {

namespace {
std::atomic<nvinfer1::ILoggerFinder*> g_finder{nullptr};
}

void set_logger_finder(nvinfer1::ILoggerFinder* finder) noexcept { g_finder = finder; }

void log_message(Severity severity, const std::string& message) noexcept {
    // Asked each time, on the thread of the call: several engines with a logger each may use the library.
    nvinfer1::ILogger* logger = nullptr;
    try {
        if (nvinfer1::ILoggerFinder* finder = g_finder) logger = finder->findLogger();
    } catch (...) {  // findLogger() may throw; stderr is left
    }
    if (logger != nullptr)
        logger->log(severity, message.c_str());
    else if (severity <= Severity::kWARNING)
        std::fprintf(stderr, "mask2edge: %s\n", message.c_str());
}

}  // namespace mask2edge
