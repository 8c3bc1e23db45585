// Runs CUDA C kernels on the host, for tests: C++20, GCC or Clang on an ELF system.
//
// One block runs at a time and each of its threads is a fiber. Warp by warp, the 32 lanes run until each waits or has
// finished; warp operations whose named lanes have all arrived are resolved; then the block's barrier. Barriers that
// diverge, shuffles that name a lane which has exited, and deadlocks are reported with line and block.
// Shared memory is filled with NaN (0xFF) before each block, so that reading it unwritten shows.
//
// Not modelled: memory ordering and caches, blocks running at the same time, register limits, approximate intrinsics
// (exact here), textures, cooperative groups, asynchronous copies, half precision. __activemask() is left out on
// purpose: what it returns is no contract on a device either.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string>
#include <type_traits>
#include <vector>

#include "crash.h"
#include "fibers.h"
#include "intrinsics.h"

// ---- language ------------------------------------------------------------------------------------------------------
#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __restrict__ __restrict
#define __align__(n) __attribute__((aligned(n)))
// One block at a time: a static is what the block shares. Not inside templates or inline functions: those put their
// statics into sections of their own, and the compiler refuses ("section type conflict").
#define __shared__ static __attribute__((section("cuda_shim_shared")))

struct uint3 {
  unsigned x = 0, y = 0, z = 0;
};
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

// ---- the scheduler -------------------------------------------------------------------------------------------------
namespace cuda_shim {

enum class Wait { ready, block_barrier, warp_operation, finished };
enum class WarpKind { sync, shuffle, ballot, match };

// A place in the source where threads meet.
struct Site {
  const char* name;
  const char* file;
  int line;
  bool operator==(const Site& other) const {
    return line == other.line && std::strcmp(name, other.name) == 0 && std::strcmp(file, other.file) == 0;
  }
  std::string text() const { return std::string(name) + " (" + file + ":" + std::to_string(line) + ")"; }
};

struct Fiber {
  Context context;
  Wait wait;
  unsigned thread;   // linear index in the block
  uint3 index;       // threadIdx
  Site site;         // where it waits
  bool predicate;    // of a vote or a counting barrier
  WarpKind kind;
  unsigned mask;     // lanes named by a warp operation
  int source;        // lane a shuffle reads; -1: its own
  std::uint64_t value, result;
};

// One per shared object (hidden visibility): the launcher in build.py holds a lock while a kernel runs.
struct State {
  dim3 grid, block;
  uint3 block_index;
  unsigned threads = 0;
  std::vector<Fiber> fibers;
  Fiber* current = nullptr;
  Context scheduler;
  Stacks stacks;
  std::vector<char> dynamic_shared;
  std::vector<unsigned> warp_order;
  unsigned lane_order[32];
  std::uint64_t seed = 0, random = 0;
  const void* body = nullptr;
  void (*call_body)(const void*) = nullptr;
  std::string error;
};
inline State state;

constexpr std::uint64_t undefined_bits = 0x7fc0badb7fc0badbull;  // NaN whether read as one float, two floats or a double

inline bool fail(const std::string& message) {
  if (state.error.empty()) state.error = message;
  return false;
}

inline void suspend() { switch_to(state.current->context, state.scheduler); }

inline void fiber_entry() {
  state.call_body(state.body);
  state.current->wait = Wait::finished;
  suspend();
  std::abort();  // a finished fiber is never resumed
}

inline unsigned random_below(unsigned n) {
  state.random = state.random * 6364136223846793005ull + 1442695040888963407ull;
  return static_cast<unsigned>(state.random >> 33) % n;
}

template <class It>
inline void shuffle(It first, unsigned n) {
  for (unsigned i = n; i > 1; --i) std::swap(first[i - 1], first[random_below(i)]);
}

// Schedule 0 runs blocks, warps and lanes in ascending order, 1 in descending order; any other shuffles the blocks
// once, and warps and lanes anew at every barrier.
inline void reorder() {
  if (state.seed < 2) return;
  shuffle(state.lane_order, 32);
  shuffle(state.warp_order.begin(), static_cast<unsigned>(state.warp_order.size()));
}

// Whether all lanes that `fiber` names wait at the same place with the same mask; false also after an error.
inline bool lanes_arrived(const Fiber& fiber, const Fiber* warp, unsigned lanes) {
  const unsigned lane = fiber.thread & 31u;
  if (!(fiber.mask >> lane & 1u)) return fail("a lane is not in the mask it passed: " + fiber.site.text());
  for (unsigned k = 0; k < lanes; ++k) {
    if (!(fiber.mask >> k & 1u)) continue;
    const Fiber& other = warp[k];
    if (other.wait == Wait::finished) return fail("a lane named in the mask has exited: " + fiber.site.text());
    if (other.wait != Wait::warp_operation || other.mask != fiber.mask || !(other.site == fiber.site)) return false;
  }
  return true;
}

inline std::uint64_t warp_result(const Fiber& fiber, const Fiber* warp, unsigned lanes) {
  std::uint64_t bits = 0;
  switch (fiber.kind) {
    case WarpKind::sync:
      return 0;
    case WarpKind::shuffle: {
      const int source = fiber.source;
      if (source < 0) return fiber.value;
      const bool named = source < static_cast<int>(lanes) && (fiber.mask >> source & 1u);
      return named ? warp[source].value : undefined_bits;
    }
    case WarpKind::ballot:
      for (unsigned k = 0; k < lanes; ++k)
        if ((fiber.mask >> k & 1u) && warp[k].predicate) bits |= 1ull << k;
      return bits;
    case WarpKind::match:
      for (unsigned k = 0; k < lanes; ++k)
        if ((fiber.mask >> k & 1u) && warp[k].value == fiber.value) bits |= 1ull << k;
      return bits;
  }
  return 0;
}

// Resolve every warp operation of one warp that is complete; true if any lane may run again.
inline bool resolve_warp(unsigned first, unsigned lanes) {
  Fiber* warp = &state.fibers[first];
  bool any = false;
  for (unsigned l = 0; l < lanes; ++l) {
    if (warp[l].wait != Wait::warp_operation || !lanes_arrived(warp[l], warp, lanes)) continue;
    const unsigned mask = warp[l].mask;
    for (unsigned k = 0; k < lanes; ++k)
      if (mask >> k & 1u) warp[k].result = warp_result(warp[k], warp, lanes);
    for (unsigned k = 0; k < lanes; ++k)
      if (mask >> k & 1u) warp[k].wait = Wait::ready;
    any = true;
  }
  return any && state.error.empty();
}

// Run the lanes of a warp until each has finished or waits for another warp.
inline bool run_warp(unsigned first) {
  const unsigned lanes = std::min(32u, state.threads - first);
  do {
    for (unsigned lane : state.lane_order) {
      if (lane >= lanes || state.fibers[first + lane].wait != Wait::ready) continue;
      state.current = &state.fibers[first + lane];
      switch_to(state.scheduler, state.current->context);
    }
  } while (resolve_warp(first, lanes));
  return state.error.empty();
}

enum class Barrier { passed, block_done, error };

inline Barrier meet_at_barrier() {
  unsigned waiting = 0, finished = 0, votes = 0;
  const Site* site = nullptr;
  for (const Fiber& fiber : state.fibers) {
    if (fiber.wait == Wait::finished) {
      ++finished;
    } else if (fiber.wait == Wait::block_barrier) {
      ++waiting;
      votes += fiber.predicate;
      if (site == nullptr) site = &fiber.site;
      if (!(*site == fiber.site)) {
        fail("divergent barrier: " + site->text() + " and " + fiber.site.text());
        return Barrier::error;
      }
    } else {
      fail("deadlock: thread " + std::to_string(fiber.thread) + " waits for ever at " + fiber.site.text());
      return Barrier::error;
    }
  }
  if (waiting == 0) return Barrier::block_done;
  if (finished != 0) {
    fail("divergent barrier: " + site->text() + " after " + std::to_string(finished) + " threads of the block exited");
    return Barrier::error;
  }
  for (Fiber& fiber : state.fibers) {
    fiber.wait = Wait::ready;
    fiber.result = votes;
  }
  return Barrier::passed;
}

// The section that holds every __shared__ variable; the anchor makes it exist in files that have none.
[[gnu::section("cuda_shim_shared"), gnu::used]] static char shared_anchor[16];
extern "C" [[gnu::visibility("hidden")]] char __start_cuda_shim_shared[], __stop_cuda_shim_shared[];

#if defined(__SANITIZE_ADDRESS__)
__attribute__((no_sanitize_address))
#endif
inline void poison_shared_memory() {
  for (volatile char* p = __start_cuda_shim_shared; p != __stop_cuda_shim_shared; ++p) *p = static_cast<char>(0xFF);
  std::fill(state.dynamic_shared.begin(), state.dynamic_shared.end(), static_cast<char>(0xFF));
}

inline bool run_block() {
  poison_shared_memory();
  for (unsigned i = 0; i < state.threads; ++i) {
    Fiber& fiber = state.fibers[i];
    prepare(fiber.context, state.stacks, i, fiber_entry);
    fiber.wait = Wait::ready;
    fiber.thread = i;
    fiber.index = {i % state.block.x, i / state.block.x % state.block.y, i / (state.block.x * state.block.y)};
  }
  for (;;) {
    reorder();
    for (unsigned warp : state.warp_order)
      if (!run_warp(warp * 32)) return false;
    const Barrier met = meet_at_barrier();
    if (met != Barrier::passed) return met == Barrier::block_done;
  }
}

inline bool check_launch(std::size_t shared_bytes) {
  const dim3 &g = state.grid, &b = state.block;
  const std::uint64_t threads = std::uint64_t(b.x) * b.y * b.z;
  if (threads == 0 || threads > 1024 || b.z > 64) return fail("invalid block size: 1 to 1024 threads, z at most 64");
  if (g.x == 0 || g.y == 0 || g.z == 0 || g.x > 0x7fffffffu || g.y > 65535 || g.z > 65535)
    return fail("invalid grid size: each side at least 1, y and z at most 65535");
  if (shared_bytes > 48 * 1024) return fail("dynamic shared memory above 48 KiB needs an opt-in that we do not use");
  if (!state.stacks.reserve(threads)) return fail("out of memory for the stacks");
  return true;
}

inline void set_up(std::uint64_t seed, std::size_t shared_bytes) {
  state.threads = state.block.x * state.block.y * state.block.z;
  state.seed = state.random = seed;
  state.fibers.assign(state.threads, Fiber{});
  state.dynamic_shared.assign(shared_bytes + 16, '\0');
  const unsigned warps = (state.threads + 31) / 32;
  state.warp_order.resize(warps);
  for (unsigned i = 0; i < warps; ++i) state.warp_order[i] = seed == 1 ? warps - 1 - i : i;
  for (unsigned i = 0; i < 32; ++i) state.lane_order[i] = seed == 1 ? 31 - i : i;
}

inline std::vector<std::uint64_t> block_order(std::uint64_t seed) {
  std::vector<std::uint64_t> blocks(std::uint64_t(state.grid.x) * state.grid.y * state.grid.z);
  for (std::size_t i = 0; i < blocks.size(); ++i) blocks[i] = seed == 1 ? blocks.size() - 1 - i : i;
  if (seed > 1) shuffle(blocks.begin(), static_cast<unsigned>(blocks.size()));
  return blocks;
}

inline std::string text(const uint3& at) {
  return std::to_string(at.x) + "," + std::to_string(at.y) + "," + std::to_string(at.z);
}

// Run `body` (a kernel bound to its arguments) over the grid; returns nullptr, or what went wrong.
template <class Body>
const char* launch(dim3 grid, dim3 block, std::size_t shared_bytes, std::uint64_t seed, const Body& body) {
  state.error.clear();
  state.grid = grid;
  state.block = block;
  if (!check_launch(shared_bytes)) return state.error.c_str();
  set_up(seed, shared_bytes);
  state.body = &body;
  state.call_body = [](const void* p) { (*static_cast<const Body*>(p))(); };
  CrashGuard guard;
  if (sigsetjmp(guard.escape, 1) != 0) {
    fail(std::string(signal_meaning(CrashGuard::signal_number)) + " @" + std::to_string(CrashGuard::offset) +
         " [thread " + text(state.current->index) + "]");
  } else {
    for (std::uint64_t i : block_order(seed)) {
      const std::uint64_t row = i / grid.x;
      state.block_index = {unsigned(i % grid.x), unsigned(row % grid.y), unsigned(row / grid.y)};
      if (!run_block()) break;
    }
  }
  if (state.error.empty()) return nullptr;
  state.error += " [block " + text(state.block_index) + "]";
  return state.error.c_str();
}

inline unsigned barrier(const Site& site, bool predicate) {
  Fiber* self = state.current;
  self->site = site;
  self->predicate = predicate;
  self->wait = Wait::block_barrier;
  suspend();
  return static_cast<unsigned>(self->result);
}

inline std::uint64_t warp_operation(const Site& site, WarpKind kind, unsigned mask, std::uint64_t value, int source,
                                    bool predicate) {
  Fiber* self = state.current;
  self->site = site;
  self->kind = kind;
  self->mask = mask;
  self->value = value;
  self->source = source;
  self->predicate = predicate;
  self->wait = Wait::warp_operation;
  suspend();
  return self->result;
}

template <class T>
inline std::uint64_t to_bits(T value) {
  static_assert(sizeof(T) <= 8 && std::is_trivially_copyable_v<T>);
  std::uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  return bits;
}

// -1 as `source` asks for the lane's own value: what a device returns where the source falls outside the segment.
template <class T>
inline T shuffle_value(const Site& site, unsigned mask, T value, int source) {
  const std::uint64_t bits = warp_operation(site, WarpKind::shuffle, mask, to_bits(value), source, false);
  T result;
  std::memcpy(&result, &bits, sizeof(T));
  return result;
}

inline int lane() { return static_cast<int>(state.current->thread & 31u); }
inline int source_index(int i, int width = 32) { return (lane() & ~(width - 1)) + (i & (width - 1)); }
inline int source_up(unsigned d, int width = 32) {
  return (lane() & (width - 1)) >= static_cast<int>(d) ? lane() - static_cast<int>(d) : -1;
}
inline int source_down(unsigned d, int width = 32) {
  return (lane() & (width - 1)) + static_cast<int>(d) < width ? lane() + static_cast<int>(d) : -1;
}
inline int source_xor(int bits, int width = 32) {
  const int source = lane() ^ bits;
  return source < (lane() & ~(width - 1)) + width ? source : -1;
}
inline unsigned mask_or_all(unsigned mask = 0xffffffffu) { return mask; }

template <class T>
inline T* dynamic_shared() {
  const auto address = (reinterpret_cast<std::uintptr_t>(state.dynamic_shared.data()) + 15) & ~std::uintptr_t(15);
  return reinterpret_cast<T*>(address);
}

}  // namespace cuda_shim

#define CUDA_SHIM_SITE(name) (cuda_shim::Site{name, __FILE__, __LINE__})
#define CUDA_SHIM_DYNAMIC_SHARED(type, name) type* name = cuda_shim::dynamic_shared<type>()

#define threadIdx (cuda_shim::state.current->index)
#define blockIdx (cuda_shim::state.block_index)
#define blockDim (cuda_shim::state.block)
#define gridDim (cuda_shim::state.grid)
#define warpSize 32

#define __syncthreads() ((void)cuda_shim::barrier(CUDA_SHIM_SITE("__syncthreads"), false))
#define __syncthreads_count(p) (int(cuda_shim::barrier(CUDA_SHIM_SITE("__syncthreads_count"), (p) != 0)))
#define __syncthreads_or(p) (int(cuda_shim::barrier(CUDA_SHIM_SITE("__syncthreads_or"), (p) != 0) != 0))
#define __syncthreads_and(p) \
  (int(cuda_shim::barrier(CUDA_SHIM_SITE("__syncthreads_and"), (p) != 0) == cuda_shim::state.threads))
#define __syncwarp(...)                                                                                  \
  ((void)cuda_shim::warp_operation(CUDA_SHIM_SITE("__syncwarp"), cuda_shim::WarpKind::sync,               \
                                   cuda_shim::mask_or_all(__VA_ARGS__), 0, -1, false))
#define CUDA_SHIM_SHUFFLE(name, mask, value, source) \
  cuda_shim::shuffle_value(CUDA_SHIM_SITE(name), (mask), (value), (source))
#define __shfl_sync(mask, value, ...) CUDA_SHIM_SHUFFLE("__shfl_sync", mask, value, cuda_shim::source_index(__VA_ARGS__))
#define __shfl_up_sync(mask, value, ...) \
  CUDA_SHIM_SHUFFLE("__shfl_up_sync", mask, value, cuda_shim::source_up(__VA_ARGS__))
#define __shfl_down_sync(mask, value, ...) \
  CUDA_SHIM_SHUFFLE("__shfl_down_sync", mask, value, cuda_shim::source_down(__VA_ARGS__))
#define __shfl_xor_sync(mask, value, ...) \
  CUDA_SHIM_SHUFFLE("__shfl_xor_sync", mask, value, cuda_shim::source_xor(__VA_ARGS__))
#define CUDA_SHIM_BALLOT(name, mask, p)                                                                     \
  (static_cast<unsigned>(                                                                                   \
      cuda_shim::warp_operation(CUDA_SHIM_SITE(name), cuda_shim::WarpKind::ballot, (mask), 0, -1, (p) != 0)))
#define __ballot_sync(mask, p) CUDA_SHIM_BALLOT("__ballot_sync", mask, p)
#define __any_sync(mask, p) (int(CUDA_SHIM_BALLOT("__any_sync", mask, p) != 0))
#define __all_sync(mask, p) (int(CUDA_SHIM_BALLOT("__all_sync", mask, !(p)) == 0))
#define __match_any_sync(mask, value)                                                                       \
  (static_cast<unsigned>(cuda_shim::warp_operation(CUDA_SHIM_SITE("__match_any_sync"),                      \
                                                   cuda_shim::WarpKind::match, (mask),                      \
                                                   cuda_shim::to_bits(value), -1, false)))
