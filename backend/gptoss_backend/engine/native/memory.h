// Memory for weights and workspaces, aligned for vectors.

#pragma once

#include <immintrin.h>
#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>

namespace gptoss {

struct Free {
  void operator()(void* memory) const { std::free(memory); }
};

template <typename T>
using Buffer = std::unique_ptr<T[], Free>;

// Large ones ask for huge pages: looking up gigabytes of small ones takes as long as reading what is in them.
template <typename T>
Buffer<T> allocate(std::size_t count) {
  constexpr std::size_t kPage = 4096, kHugePage = 512 * kPage;
  const std::size_t bytes = (count * sizeof(T) + kPage - 1) / kPage * kPage;
  void* memory = std::aligned_alloc(kPage, bytes);
  if (bytes >= kHugePage) madvise(memory, bytes, MADV_HUGEPAGE);
  return Buffer<T>(static_cast<T*>(memory));
}

// Has what is mapped from a file read at once: left to the accesses, it comes in pieces of which each is waited for.
inline void fetch(const void* source, std::size_t bytes) {
  constexpr std::uintptr_t kPage = 4096;
  const auto address = reinterpret_cast<std::uintptr_t>(source), start = address / kPage * kPage;
  madvise(reinterpret_cast<void*>(start), bytes + (address - start), MADV_WILLNEED);
}

inline void prefetch(const void* source) { _mm_prefetch(source, _MM_HINT_T0); }

// A workspace that only grows, so that a steady state allocates nothing.
template <typename T>
struct Scratch {
  Buffer<T> memory;
  std::size_t capacity = 0;
  T* get(std::size_t count) {
    if (count > capacity) {
      memory = allocate<T>(count);
      capacity = count;
    }
    return memory.get();
  }
};

}  // namespace gptoss
