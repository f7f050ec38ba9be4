// Scratch memory that is kept from call to call: fresh memory is touched for the first time at the price of a page
// fault.
#pragma once
#include <stdint.h>
#include <stdlib.h>

#include <mutex>
#include <vector>
#if defined(__linux__)
#include <sys/mman.h>
#endif

// Asks for huge pages, of which fresh memory needs five hundred times fewer.
static void huge_pages(void* begin, size_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  const uintptr_t size = 2 << 20, first = ((uintptr_t)begin + size - 1) / size * size,
                  last = ((uintptr_t)begin + bytes) / size * size;
  if (first < last) madvise((void*)first, last - first, MADV_HUGEPAGE);
#endif
}

struct Block {
  float* data;
  size_t bytes;
};

// Blocks that no call uses now, the largest of which go when they are too many.
class Kept {
 public:
  Block take(size_t bytes) {
    std::lock_guard<std::mutex> lock(mutex_);
    int best = -1;
    for (int i = 0; i < (int)blocks_.size(); i++) {
      const size_t found = blocks_[i].bytes;
      if (found >= bytes && found <= 2 * bytes && (best < 0 || found < blocks_[best].bytes)) best = i;
    }
    if (best < 0) return make(bytes);
    const Block block = blocks_[best];
    blocks_.erase(blocks_.begin() + best);
    total_ -= block.bytes;
    return block;
  }

  void give(Block block) {
    std::lock_guard<std::mutex> lock(mutex_);
    if (total_ + block.bytes > (size_t)128 << 20) return free(block.data);
    total_ += block.bytes;
    blocks_.push_back(block);
  }

  ~Kept() {
    for (const Block& block : blocks_) free(block.data);
  }

 private:
  static Block make(size_t bytes) {
    void* data = nullptr;
    const size_t align = bytes >= (2 << 20) ? 2 << 20 : 64;
    bytes = (bytes + align - 1) / align * align;
    if (posix_memalign(&data, align, bytes)) abort();
    huge_pages(data, bytes);
    return {(float*)data, bytes};
  }

  std::mutex mutex_;
  std::vector<Block> blocks_;
  size_t total_ = 0;
};

static Kept kept;

// The memory of one call.
class Scratch {
 public:
  float* take(size_t floats) {
    if (!floats) return nullptr;
    blocks_.push_back(kept.take(floats * sizeof(float)));
    return blocks_.back().data;
  }
  ~Scratch() {
    for (const Block& block : blocks_) kept.give(block);
  }

 private:
  std::vector<Block> blocks_;
};
