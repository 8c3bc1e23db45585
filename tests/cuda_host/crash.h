// Turns a crash inside a kernel (bad address, trapped undefined behaviour, stack overflow) into an error message.
#pragma once
#include <csetjmp>
#include <csignal>
#include <cstdint>
#include <vector>

#include <dlfcn.h>
#include <ucontext.h>

namespace cuda_shim {

// Set up for the length of a launch. Where AddressSanitizer is at work its own handlers say more, and are left alone.
class CrashGuard {
 public:
  sigjmp_buf escape;                      // where a crash goes: the launch, on the scheduler's stack
  static inline CrashGuard* active = nullptr;
  static inline int signal_number = 0;
  static inline std::uintptr_t offset = 0;  // of the faulting instruction in its shared object, for addr2line

#ifdef __SANITIZE_ADDRESS__
  CrashGuard() = default;
#else
  CrashGuard() : stack_(64 * 1024) {
    stack_t stack{};
    stack.ss_sp = stack_.data();
    stack.ss_size = stack_.size();
    sigaltstack(&stack, &old_stack_);
    struct sigaction action {};
    action.sa_sigaction = handle;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    for (int i = 0; i < 4; ++i) sigaction(signals[i], &action, &old_actions_[i]);
    active = this;
  }
  ~CrashGuard() {
    active = nullptr;
    for (int i = 0; i < 4; ++i) sigaction(signals[i], &old_actions_[i], nullptr);
    sigaltstack(&old_stack_, nullptr);
  }
  CrashGuard(const CrashGuard&) = delete;
  CrashGuard& operator=(const CrashGuard&) = delete;

 private:
  static constexpr int signals[4] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE};

  static void handle(int number, siginfo_t*, void* context) {
    std::uintptr_t address = 0;
#ifdef __x86_64__
    address = static_cast<std::uintptr_t>(static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_RIP]);
#elif defined(__aarch64__)
    address = static_cast<std::uintptr_t>(static_cast<ucontext_t*>(context)->uc_mcontext.pc);
#endif
    Dl_info info{};
    offset = dladdr(reinterpret_cast<void*>(address), &info) != 0
                 ? address - reinterpret_cast<std::uintptr_t>(info.dli_fbase)
                 : 0;
    signal_number = number;
    siglongjmp(active->escape, 1);
  }

  std::vector<char> stack_;
  stack_t old_stack_{};
  struct sigaction old_actions_[4] {};
#endif
};

inline const char* signal_meaning(int number) {
  switch (number) {
    case SIGSEGV:
      return "SIGSEGV, an address outside every array (or a stack overflow)";
    case SIGBUS:
      return "SIGBUS, an address that cannot be accessed";
    case SIGFPE:
      return "SIGFPE, an integer division by zero";
    default:
      return "SIGILL, undefined behaviour was trapped";
  }
}

}  // namespace cuda_shim
