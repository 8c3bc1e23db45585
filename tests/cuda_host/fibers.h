// Stackful fibers: one per CUDA thread of the block that is running.
//
// On x86-64 a switch is a dozen instructions; elsewhere (or with -DCUDA_SHIM_UCONTEXT) it is swapcontext. Each stack
// has a page without access below it, so an overflow is a crash at the culprit and not a neighbour's broken variable.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <vector>

#include <sys/mman.h>
#include <unistd.h>

#if !defined(__x86_64__) && !defined(CUDA_SHIM_UCONTEXT)
#define CUDA_SHIM_UCONTEXT 1
#endif
#ifdef CUDA_SHIM_UCONTEXT
#include <ucontext.h>
#endif
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#endif

namespace cuda_shim {

#ifdef __SANITIZE_ADDRESS__
constexpr std::size_t stack_bytes = 256 * 1024;  // red zones make frames several times larger
#else
constexpr std::size_t stack_bytes = 64 * 1024;
#endif

// The stacks of a block, mapped once and reused by every block and launch.
class Stacks {
 public:
  Stacks() = default;
  Stacks(const Stacks&) = delete;
  Stacks& operator=(const Stacks&) = delete;
  ~Stacks() { release(); }

  // Make room for n stacks; returns false when the system has no memory left.
  bool reserve(std::size_t n) {
    if (n > count_) {
      release();
      const std::size_t page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
      void* base = mmap(nullptr, n * stack_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                        -1, 0);
      if (base == MAP_FAILED) return false;
      base_ = static_cast<char*>(base);
      count_ = n;
      for (std::size_t i = 0; i < n; ++i) mprotect(bottom(i), page, PROT_NONE);
    }
#ifdef __SANITIZE_ADDRESS__
    // A launch that failed left its fibers in mid-function, and their red zones on the stacks.
    ASAN_UNPOISON_MEMORY_REGION(base_, count_ * stack_bytes);
#endif
    return true;
  }

  char* bottom(std::size_t i) const { return base_ + i * stack_bytes; }
  char* top(std::size_t i) const { return bottom(i) + stack_bytes; }

 private:
  void release() {
    if (base_ != nullptr) munmap(base_, count_ * stack_bytes);
    base_ = nullptr;
    count_ = 0;
  }

  char* base_ = nullptr;
  std::size_t count_ = 0;
};

#ifdef CUDA_SHIM_UCONTEXT

struct Context {
  ucontext_t uc;
};

inline void switch_to(Context& from, Context& to) { swapcontext(&from.uc, &to.uc); }

inline void prepare(Context& fiber, const Stacks& stacks, std::size_t i, void (*entry)()) {
  getcontext(&fiber.uc);
  fiber.uc.uc_stack.ss_sp = stacks.bottom(i);
  fiber.uc.uc_stack.ss_size = stack_bytes;
  fiber.uc.uc_link = nullptr;
  makecontext(&fiber.uc, entry, 0);
}

#else

struct Context {
  void* stack_pointer;
};

extern "C" void cuda_shim_switch(void** save, void* restore);
// Saves the callee-saved registers, exchanges the stacks, restores. It leaves by a jump, not by `ret`: the return
// address predictor would be wrong at every switch, which costs more than all the rest.
asm(R"(
.text
.p2align 4
.local cuda_shim_switch
.type cuda_shim_switch,@function
cuda_shim_switch:
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
  popq %rcx
  jmp *%rcx
.size cuda_shim_switch, .-cuda_shim_switch
)");

inline void switch_to(Context& from, Context& to) { cuda_shim_switch(&from.stack_pointer, to.stack_pointer); }

inline void prepare(Context& fiber, const Stacks& stacks, std::size_t i, void (*entry)()) {
  void** stack = reinterpret_cast<void**>(stacks.top(i));
  *--stack = nullptr;                                // the return address of entry, which never returns
  *--stack = reinterpret_cast<void*>(entry);         // where the first switch jumps; rsp % 16 == 8 there, as the ABI asks
  for (int reg = 0; reg < 6; ++reg) *--stack = nullptr;
  fiber.stack_pointer = stack;
}

#endif

}  // namespace cuda_shim
