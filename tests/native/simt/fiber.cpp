#include "simt/fiber.h"

#include <sys/mman.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>

#if !defined(__x86_64__) && !defined(MASK2EDGE_SIMT_UCONTEXT)
#define MASK2EDGE_SIMT_UCONTEXT
#endif
#ifdef MASK2EDGE_SIMT_UCONTEXT
#include <ucontext.h>
#endif

#if defined(__SANITIZE_ADDRESS__)
#define MASK2EDGE_SIMT_ASAN
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define MASK2EDGE_SIMT_ASAN
#endif
#endif
#ifdef MASK2EDGE_SIMT_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#ifndef MASK2EDGE_SIMT_UCONTEXT
// Pushes what a function must preserve, stores the stack pointer in *save, and does the reverse with `load`.
extern "C" void mask2edge_simt_switch(void** save, void* load);
asm(R"(
    .text
    .globl mask2edge_simt_switch
    .hidden mask2edge_simt_switch
    .type mask2edge_simt_switch, @function
mask2edge_simt_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size mask2edge_simt_switch, . - mask2edge_simt_switch
)");
#endif

namespace simt {

namespace {

constexpr std::size_t kGuard = 64 * 1024;  // a whole page of every architecture
#ifdef MASK2EDGE_SIMT_ASAN
constexpr std::size_t kStack = 256 * 1024;  // its frames are several times larger
#else
constexpr std::size_t kStack = 64 * 1024;
#endif

// The side that resumes: one is enough, for fibers do not resume fibers.
Fiber* g_running = nullptr;
void* g_scheduler = nullptr;  // its stack pointer, or its ucontext_t
const void* g_scheduler_stack = nullptr;
std::size_t g_scheduler_stack_size = 0;

void switch_stacks(void** save, void* load) {
#ifdef MASK2EDGE_SIMT_UCONTEXT
    ucontext_t here;
    *save = &here;
    swapcontext(&here, static_cast<ucontext_t*>(load));
#else
    mask2edge_simt_switch(save, load);
#endif
}

// Around each switch: `fake_stack` belongs to the side that is left, nullptr when it never continues.
void leaving(void** fake_stack, const void* stack, std::size_t size) {
#ifdef MASK2EDGE_SIMT_ASAN
    __sanitizer_start_switch_fiber(fake_stack, stack, size);
#else
    (void)fake_stack, (void)stack, (void)size;
#endif
}

void arrived(void* fake_stack, const void** old_stack, std::size_t* old_size) {
#ifdef MASK2EDGE_SIMT_ASAN
    __sanitizer_finish_switch_fiber(fake_stack, old_stack, old_size);
#else
    (void)fake_stack, (void)old_stack, (void)old_size;
#endif
}

}  // namespace

Fiber::Fiber() {
    void* memory = mmap(nullptr, kGuard + kStack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED || mprotect(memory, kGuard, PROT_NONE) != 0) {
        std::perror("simt: no memory for the stack of a CUDA thread");
        std::abort();
    }
    memory_ = static_cast<char*>(memory);
}

Fiber::~Fiber() { munmap(memory_, kGuard + kStack); }

void Fiber::start(Body body, void* argument) {
    body_ = body;
    argument_ = argument;
    fake_stack_ = nullptr;
    char* const stack = memory_ + kGuard;
#ifdef MASK2EDGE_SIMT_ASAN
    ASAN_UNPOISON_MEMORY_REGION(stack, kStack);  // what an abandoned body left
#endif
#ifdef MASK2EDGE_SIMT_UCONTEXT
    ucontext_t* const context = reinterpret_cast<ucontext_t*>(stack);  // at the far end of the stack
    getcontext(context);
    context->uc_stack.ss_sp = stack + sizeof(ucontext_t);
    context->uc_stack.ss_size = kStack - sizeof(ucontext_t);
    context->uc_link = nullptr;
    makecontext(context, &Fiber::run, 0);
    stack_pointer_ = context;
#else
    // As if mask2edge_simt_switch had been called by something that returns to run(): six registers, an address, and
    // a return address of zero for run() itself, aligned as the ABI has it at a function's first instruction.
    void** const top = reinterpret_cast<void**>(stack + kStack);
    top[-1] = nullptr;
    top[-2] = reinterpret_cast<void*>(&Fiber::run);
    for (int i = 3; i <= 8; ++i) top[-i] = nullptr;
    stack_pointer_ = top - 8;
#endif
}

void Fiber::resume() {
    g_running = this;
    void* fake_stack = nullptr;
    leaving(&fake_stack, memory_ + kGuard, kStack);
    switch_stacks(&g_scheduler, stack_pointer_);
    arrived(fake_stack, nullptr, nullptr);
}

void Fiber::pause() {
    Fiber* const self = g_running;
    leaving(&self->fake_stack_, g_scheduler_stack, g_scheduler_stack_size);
    switch_stacks(&self->stack_pointer_, g_scheduler);
    arrived(self->fake_stack_, &g_scheduler_stack, &g_scheduler_stack_size);
}

void Fiber::run() {
    arrived(nullptr, &g_scheduler_stack, &g_scheduler_stack_size);
    Fiber* const self = g_running;
    self->body_(self->argument_);
    leaving(nullptr, g_scheduler_stack, g_scheduler_stack_size);
    void* never;
    switch_stacks(&never, g_scheduler);
}

}  // namespace simt
