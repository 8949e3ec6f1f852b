// The copy engine: boxes of a tensor, to and from shared memory.
#include <cstring>

#include "simt/global_memory.h"
#include "simt/hopper.h"

namespace qcore::simt {
namespace {

// What a map holds in the emulator.
struct Content {
  uint64_t magic;
  TensorFacts facts;
};
static_assert(sizeof(Content) <= sizeof(TensorMap));
constexpr uint64_t kMagic = 0x70616d726f736e65;

TensorFacts facts_of(const TensorMap& map, const Call& call) {
  check_tensor_map(map, call.name, call.where);
  Content content;
  std::memcpy(static_cast<void*>(&content), &map, sizeof content);
  return content.facts;
}

// Calls piece(address in shared memory, in global memory, bytes that exist) for each 16 bytes.
template <class F>
void for_box(const TensorFacts& f, const std::vector<int64_t>& coordinates, uint32_t shared,
             const Call& call, const F& piece) {
  if (static_cast<int>(coordinates.size()) != f.rank) {
    fault(std::string(call.name) + ": the map has " + std::to_string(f.rank) + " dimensions",
          call.where);
  }
  const uint32_t period = swizzle_period(f.swizzle);
  if (shared % period != 0) {
    fault(std::string(call.name) + ": shared offset " + std::to_string(shared) +
              " is not a multiple of " + std::to_string(period),
          call.where);
  }
  const uint32_t mask = f.swizzle == Swizzle::none ? 0 : static_cast<uint32_t>(f.swizzle) / 16 - 1;
  const int64_t element = f.element_bytes, row = f.box[0] * element;
  const auto inside = [&](int i, int64_t at) {
    return at >= 0 && at < static_cast<int64_t>(f.size[i]);
  };
  uint32_t to = shared;
  for (int64_t z = 0; z < (f.rank == 3 ? f.box[2] : 1); ++z) {
    const int64_t c2 = f.rank == 3 ? coordinates[2] + z : 0;
    for (int64_t y = 0; y < f.box[1]; ++y) {
      const int64_t c1 = coordinates[1] + y;
      const bool exists = inside(1, c1) && (f.rank == 2 || inside(2, c2));
      for (int64_t x = 0; x < row; x += 16, to += 16) {
        const int64_t first = coordinates[0] * element + x;
        const int64_t end = static_cast<int64_t>(f.size[0]) * element;
        // Whole pieces, but for the tensor's own end: coordinates may start before it.
        const int64_t skip = std::min<int64_t>(16, std::max<int64_t>(0, -first));
        const int64_t count =
            exists ? std::max<int64_t>(0, std::min<int64_t>(16, end - first) - skip) : 0;
        const int64_t offset = first + skip + c1 * static_cast<int64_t>(f.stride[0]) +
                               (f.rank == 3 ? c2 * static_cast<int64_t>(f.stride[1]) : 0);
        const uintptr_t global =
            reinterpret_cast<uintptr_t>(f.base) + static_cast<uintptr_t>(count > 0 ? offset : 0);
        piece(to ^ (to >> 7 & mask) << 4, reinterpret_cast<unsigned char*>(global),
              static_cast<size_t>(skip), static_cast<size_t>(count));
      }
    }
  }
}

TensorStores& my_stores() {
  return hopper().stores[current_thread->index];
}
Accessor me() {
  return static_cast<Accessor>(current_thread->index);
}

}  // namespace

void make_tensor_map(const TensorFacts& facts, TensorMap& map) {
  const Content content{kMagic, facts};
  map = {};
  std::memcpy(static_cast<void*>(&map), &content, sizeof content);
}

void check_tensor_map(const TensorMap& map, const char* name, std::source_location where) {
  if (reinterpret_cast<uintptr_t>(&map) % 64 != 0 || map.opaque[0] != kMagic) {
    fault(std::string(name) + ": this is no tensor map", where);
  }
}

void copy_tensor(uint32_t to, const TensorMap& map, std::vector<int64_t> coordinates, uint32_t at,
                 std::source_location where) {
  const Call call{"copy_tensor", where};
  const TensorFacts facts = facts_of(map, call);
  Barrier& barrier = find_barrier(at, call);
  if (!barrier.fenced) {
    fault("copy_tensor: the thread that made the barrier called no fence_barrier_init", where);
  }
  SharedMemory& shared = current_thread->block->shared;
  const bool fenced = hopper().fenced_global.contains(current_thread->index);
  const uint32_t swizzle = static_cast<uint32_t>(facts.swizzle);
  TensorCopy copy;
  copy.pieces.reserve(facts.box_bytes() / 16);
  for_box(facts, coordinates, to, call,
          [&](uint32_t place, const unsigned char* from, size_t skip, size_t count) {
            TensorCopy::Piece piece{place, {}};
            if (count > 0) {
              check_global_load(from, count, call.name, where);
              if (!fenced && written_by_this_launch(from, count)) {
                fault(
                    "copy_tensor: this launch wrote what it reads, and the thread called no "
                    "fence_proxy_async_global",
                    where);
              }
              std::memcpy(piece.bytes + skip, from, count);
            }
            shared.take_off_copy(place, me(), barrier.copies_as, swizzle, call);
            copy.pieces.push_back(piece);
          });
  add_copy(barrier, std::move(copy));
}

// The bytes reach global memory at once; shared memory may not change until the wait.
void store_tensor(const TensorMap& map, std::vector<int64_t> coordinates, uint32_t from,
                  std::source_location where) {
  const Call call{"store_tensor", where};
  SharedMemory& shared = current_thread->block->shared;
  TensorStores& stores = my_stores();
  for_box(facts_of(map, call), coordinates, from, call,
          [&](uint32_t place, unsigned char* to, size_t skip, size_t count) {
            unsigned char bytes[16];
            shared.begin_read(place, me(), bytes, call);
            stores.open.push_back(place);
            if (count == 0) return;
            check_global_store(to, count, call.name, where);
            std::memcpy(to, bytes + skip, count);
          });
}

void store_tensor_commit() {
  TensorStores& stores = my_stores();
  stores.groups.push_back(std::exchange(stores.open, {}));
}

void store_tensor_wait(size_t pending) {
  TensorStores& stores = my_stores();
  while (stores.groups.size() > pending) {
    for (const uint32_t line : stores.groups.front()) {
      current_thread->block->shared.end_read(line, me());
    }
    stores.groups.pop_front();
  }
}

}  // namespace qcore::simt
