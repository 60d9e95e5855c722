// Memory for weights and workspaces, aligned for vectors.

#pragma once

#include <cstddef>
#include <cstdlib>
#include <memory>

namespace gptoss {

struct Free {
  void operator()(void* memory) const { std::free(memory); }
};

template <typename T>
using Buffer = std::unique_ptr<T[], Free>;

template <typename T>
Buffer<T> allocate(std::size_t count) {
  const std::size_t bytes = (count * sizeof(T) + 4095) / 4096 * 4096;
  return Buffer<T>(static_cast<T*>(std::aligned_alloc(4096, bytes)));
}

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
