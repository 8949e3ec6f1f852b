// Runs CUDA kernel source on the CPU: every CUDA thread is a fiber, the names of cuda/ptx/ are
// ordinary functions (ptx/), and each access to memory is checked. What a GPU would leave to luck
// (a missing barrier, a stray address, a lane that takes another way) is a Fault that says who did
// what where.
//
//     simt::Buffer a("a", activations);                           // readable
//     simt::Buffer d("d", bytes, simt::Access::write_once);       // poisoned
//     simt::launch({.name = "copy", .grid = 4, .threads = 128, .shared_bytes = 4096},
//                  [&] { kernel({a.data<float>(), d.data<float>()}); });
//
// One launch at a time, from one thread of the host.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <source_location>
#include <stdexcept>
#include <string>
#include <vector>

namespace qcore::simt {

// What a kernel did wrong.
class Fault : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// ---- Global memory

enum class Access {
  read,
  read_write,
  write_once,  // and read; two threads may not store to the same byte
};

struct Region;  // global_memory.h

// Existing memory of the host, which kernels may touch while this object lives. Its content counts
// as written.
class View {
 public:
  View(std::string name, const void* data, size_t bytes, Access access = Access::read);
  ~View();
  View(const View&) = delete;
  View& operator=(const View&) = delete;

 private:
  std::unique_ptr<Region> region_;
};

// Memory of its own between guard zones, aligned as cudaMalloc does. Without content it is poisoned
// with 0xff (NaN in every float format), and a kernel may not read what nobody wrote.
class Buffer {
 public:
  Buffer(std::string name, size_t bytes, Access access);
  template <class T>
  Buffer(std::string name, const std::vector<T>& content, Access access = Access::read)
      : Buffer(std::move(name), content.size() * sizeof(T), access) {
    if (!content.empty()) std::memcpy(begin_, content.data(), content.size() * sizeof(T));
    mark_written();
  }
  ~Buffer();
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  template <class T>
  T* data() const {
    return reinterpret_cast<T*>(begin_);
  }
  template <class T>
  std::vector<T> values() const {
    const T* first = data<T>();
    return std::vector<T>(first, first + bytes() / sizeof(T));
  }
  size_t bytes() const;
  // The host writes every byte.
  void fill(uint8_t byte);

 private:
  void mark_written();

  std::vector<unsigned char> storage_;
  unsigned char* begin_;
  std::unique_ptr<Region> region_;
};

// ---- Launching

// In which order blocks start, and which way threads take turns.
enum class Order { ascending, descending, shuffled };

struct Launch {
  const char* name = "kernel";
  int grid = 1;
  int threads = 32;  // of a block, whole warps
  int shared_bytes = 0;
  Order order = Order::ascending;
  uint32_t seed = 0;
  // Blocks alive at once. They change at block barriers, and with Order::shuffled anywhere.
  int resident_blocks = 4;
};

// Runs body() once in every thread of every block. Throws Fault.
void launch(const Launch& launch, const std::function<void()>& body);

// For a thread that waits for another one by reading memory again and again: lets others run.
// Pauses without any other progress are a Fault.
void pause(std::source_location where = std::source_location::current());

}  // namespace qcore::simt
