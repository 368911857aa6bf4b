// A stack of its own that can be left in the middle and continued later: one CUDA thread.
//
//     Fiber fiber;
//     fiber.start(&body, argument);   // does not run it yet
//     fiber.resume();                 // runs until Fiber::pause() or the end of body(argument)
//
// Switching is a few instructions on x86-64 and swapcontext elsewhere (or with MASK2EDGE_SIMT_UCONTEXT).
// AddressSanitizer is told of each switch. One thread of the operating system at a time.
#pragma once

#include <cstddef>

namespace simt {

class Fiber {
  public:
    using Body = void (*)(void* argument);

    Fiber();
    ~Fiber();
    Fiber(const Fiber&) = delete;
    Fiber& operator=(const Fiber&) = delete;

    // Whatever the fiber was in the middle of is forgotten, without destructors.
    void start(Body body, void* argument);
    void resume();

    // From inside a fiber: back to whoever resumed it.
    static void pause();

  private:
    static void run();  // a fiber's first function

    char* memory_;  // the stack, below it a page that faults
    void* stack_pointer_ = nullptr;
    void* fake_stack_ = nullptr;  // AddressSanitizer's
    Body body_ = nullptr;
    void* argument_ = nullptr;
};

}  // namespace simt
