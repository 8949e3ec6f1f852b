// The mode in which the kernels compute: subnormal numbers are kept. torch.set_flush_denormal and
// -ffast-math turn that off, and only for the thread that asks, so a result would depend on which
// thread computed it.
#pragma once

#include <cstdint>

namespace qcore {

#if defined(__x86_64__)

// While it lives, this thread neither flushes subnormal results (MXCSR bit 15) nor reads subnormal
// operands as zero (bit 6).
class ExactSubnormals {
 public:
  ExactSubnormals() : before_(read()) {
    if (before_ & kFlush) write(before_ & ~kFlush);
  }
  ExactSubnormals(const ExactSubnormals&) = delete;
  ExactSubnormals& operator=(const ExactSubnormals&) = delete;
  ~ExactSubnormals() {
    if (before_ & kFlush) write(before_);
  }

 private:
  static constexpr uint32_t kFlush = 0x8040;

  // "memory": what is computed from memory, and stored to it, stays between the two writes.
  static uint32_t read() {
    uint32_t mode;
    __asm__ volatile("stmxcsr %0" : "=m"(mode) : : "memory");
    return mode;
  }
  static void write(uint32_t mode) { __asm__ volatile("ldmxcsr %0" : : "m"(mode) : "memory"); }

  uint32_t before_;
};

#else

class ExactSubnormals {
 public:
  ExactSubnormals() {}  // not defaulted: an object of it counts as used
};

#endif

}  // namespace qcore
