// A product starts when all four warps have come to it. It reads shared memory from then on until
// each warp has waited; meanwhile its sums are hidden, and the registers that belong to them hold
// poison that nobody may change. Nor may anybody change the registers that hold A.
#include "simt/wgmma.h"

#include <cstring>

#include "ptx/fragments.h"
#include "simt/hopper.h"

namespace qcore::simt {
namespace {

constexpr uint32_t kPoison = 0x7fdecade;  // NaN; as an integer, far beyond any sum of a test
constexpr uint32_t kAllWarps = 15;

WarpGroup& my_group(const char* name, const std::source_location& where) {
  Hopper& state = hopper();
  const size_t group = static_cast<size_t>(current_thread->warp->index) / 4;
  if (group >= state.groups.size()) {
    fault(std::string(name) + ": the block has no four warps here", where);
  }
  return state.groups[group];
}
WarpGroup::PerWarp& my_warp(WarpGroup& group) {
  return group.warps[current_thread->warp->index % 4];
}
uint32_t my_bit() {
  return 1u << (current_thread->warp->index % 4);
}

// Where 16-byte piece `piece` of row `row` of a matrix lies.
class Descriptor {
 public:
  Descriptor(uint64_t bits, const Call& call) : bits_(bits) {
    // What is not named here must be zero.
    constexpr uint64_t kKnown =
        0x3fffull | 0x3fffull << 16 | 0x3fffull << 32 | 7ull << 49 | 3ull << 62;
    if (bits & ~kKnown)
      fault(std::string(call.name) + ": the descriptor has unknown bits", call.where);
    const uint32_t row_bytes = span();
    if (row_bytes != 0 && field(0) % row_bytes + 32 > row_bytes) {
      fault(std::string(call.name) + ": the descriptor starts at byte " +
                std::to_string(field(0) % row_bytes) + " of rows of " + std::to_string(row_bytes),
            call.where);
    }
  }
  uint32_t span() const {  // of the swizzle, in bytes
    constexpr uint32_t kSpans[] = {0, 128, 64, 32};
    return kSpans[bits_ >> 62];
  }
  uint32_t at(uint32_t row, uint32_t piece) const {
    const uint32_t group = row / 8 * field(32), inside = row % 8;
    if (span() == 0) return field(0) + group + inside * 16 + piece * field(16);
    const uint32_t address = field(0) + group + inside * span() + piece * 16;
    const auto base = static_cast<uint32_t>(bits_ >> 49 & 7);
    return address ^ (((address >> 7) - base) & (span() / 16 - 1)) << 4;
  }

 private:
  uint32_t field(int bit) const { return static_cast<uint32_t>(bits_ >> bit & 0x3fff) << 4; }
  uint64_t bits_;
};

struct Issue {
  WarpGroup& group;
  Warp* const warps;  // the four
  const WgmmaCall& call;
  const Call where;

  const Warp& warp(int w) const { return warps[w]; }
  const WgmmaCall& of(int thread) const {
    return *static_cast<const WgmmaCall*>(warps[thread / 32].operands[thread % 32].first);
  }
};

void check_alike(const Issue& issue) {
  for (int thread = 0; thread < 128; ++thread) {
    const WgmmaCall& each = issue.of(thread);
    const WgmmaCall& first = issue.call;
    if (each.a_kind != first.a_kind || each.b_kind != first.b_kind || each.n != first.n ||
        each.b != first.b || each.accumulate != first.accumulate || each.a != first.a ||
        (each.a_registers == nullptr) != (first.a_registers == nullptr)) {
      fault("wgmma: threads of the warpgroup call different products", issue.where.where);
    }
  }
}

// The sums under way in these registers, or new ones, with the registers' content.
WgmmaSums& take_sums(const Issue& issue) {
  const WgmmaCall& call = issue.call;
  const auto registers = static_cast<size_t>(call.n) / 2;
  for (std::unique_ptr<WgmmaSums>& sums : issue.group.sums) {
    if (sums->registers[0] != call.sums) continue;
    for (int thread = 0; thread < 128; ++thread) {
      uint32_t* const mine = static_cast<uint32_t*>(issue.of(thread).sums);
      if (mine != sums->registers[static_cast<size_t>(thread)] || sums->n != call.n ||
          sums->landed) {
        fault("wgmma: its sums are under way in another shape", issue.where.where);
      }
      for (size_t i = 0; i < registers; ++i) {
        if (mine[i] != kPoison) {
          fault("wgmma: sums were touched while under way", issue.where.where);
        }
      }
    }
    return *sums;
  }
  for (const WarpGroup::PerWarp& warp : issue.group.warps) {
    if (!warp.fenced) {
      fault("wgmma: no wgmma_fence since the registers of its sums were used otherwise",
            issue.where.where);
    }
  }
  auto sums = std::make_unique<WgmmaSums>();
  sums->n = call.n;
  sums->integer = call.a_kind == ElementKind::int8;
  sums->value.assign(64 * static_cast<size_t>(call.n), 0);
  for (int thread = 0; thread < 128; ++thread) {
    uint32_t* const mine = static_cast<uint32_t*>(issue.of(thread).sums);
    sums->registers.push_back(mine);
    for (size_t i = 0; i < registers; ++i) {
      const fragments::Element e = fragments::wgmma_d_element(thread, static_cast<int>(i));
      sums->value[static_cast<size_t>(e.row * call.n + e.column)] = mine[i];
      mine[i] = kPoison;
    }
  }
  issue.group.sums.push_back(std::move(sums));
  return *issue.group.sums.back();
}

// Rows [first, first + count) of a matrix in shared memory, for one warp or all four.
void read_rows(const Issue& issue, uint64_t bits, int first, int count, int warp,
               unsigned char (*rows)[32], std::vector<uint32_t>& lines) {
  const Descriptor descriptor(bits, issue.where);
  SharedMemory& shared = issue.warps->block->shared;
  shared.use_clocks();
  for (int row = first; row < first + count; ++row) {
    for (uint32_t piece = 0; piece < 2; ++piece) {
      const uint32_t at = descriptor.at(static_cast<uint32_t>(row), piece);
      shared.check_address(at, 16, issue.where);
      shared.check_swizzle(at, descriptor.span(), issue.where);
      shared.begin_read(at, whole_warp(warp), rows[row] + 16 * piece, issue.where);
      lines.push_back(at);
    }
  }
}

void execute(const Issue& issue) {
  const WgmmaCall& call = issue.call;
  check_alike(issue);
  WgmmaSums& sums = take_sums(issue);
  // Static: the last lane to arrive executes this, each time on another stack.
  static unsigned char a[64][32], b[256][32];
  WgmmaProduct product{++issue.group.issued, {}, 0, {}};
  const int first_warp = issue.warps->index;
  if (call.a_registers) {
    for (const WarpGroup::PerWarp& warp : issue.group.warps) {
      if (!warp.fenced) {
        fault("wgmma: no wgmma_fence since the registers of A were used otherwise",
              issue.where.where);
      }
    }
    for (int thread = 0; thread < 128; ++thread) {
      unsigned char bytes[16];
      product.a.push_back({issue.of(thread).a_registers, {}});
      std::memcpy(product.a.back().value, issue.of(thread).a_registers, 16);
      std::memcpy(bytes, issue.of(thread).a_registers, 16);
      for (int i = 0; i < 16; ++i) {
        const fragments::Element e = fragments::wgmma_a_byte(thread, i);
        a[e.row][e.column] = bytes[i];
      }
    }
  }
  for (int warp = 0; warp < 4; ++warp) {
    std::vector<uint32_t>& lines = product.lines;
    if (!call.a_registers) read_rows(issue, call.a, 0, 64, first_warp + warp, a, lines);
    read_rows(issue, call.b, 0, call.n, first_warp + warp, b, lines);
  }
  if (!call.accumulate) sums.value.assign(sums.value.size(), 0);
  wgmma_multiply(call, a, b, sums.value.data());
  sums.last = product.number;
  issue.group.products.push_back(std::move(product));
}

void arrive(Warp& warp) {
  WarpGroup& group = hopper().groups[static_cast<size_t>(warp.index) / 4];
  group.arrived |= 1u << (warp.index % 4);
  if (group.arrived != kAllWarps) return;
  group.arrived = 0;
  Warp* const warps = &warp - warp.index % 4;
  const auto& call = *static_cast<const WgmmaCall*>(warps->operands[0].first);
  execute({group, warps, call, {"wgmma", warp.where}});
  wake(group);
}
const Collective kWgmma{"wgmma", arrive};

void nothing(Warp&) {}
const Collective kFence{"wgmma_fence", nothing}, kCommit{"wgmma_commit", nothing},
    kWait{"wgmma_wait", nothing};

void land(WgmmaSums& sums, int warp) {
  for (int thread = warp * 32; thread < warp * 32 + 32; ++thread) {
    uint32_t* const to = sums.registers[static_cast<size_t>(thread)];
    for (int i = 0; i < sums.n / 2; ++i) {
      if (to[i] != kPoison) fault("wgmma: sums were touched while under way", {});
      const fragments::Element e = fragments::wgmma_d_element(thread, i);
      to[i] = sums.value[static_cast<size_t>(e.row * sums.n + e.column)];
    }
  }
  sums.landed |= 1u << warp;
}

// The warp has waited for all products up to `number`.
void land_until(WarpGroup& group, uint64_t number) {
  Warp& warp = *current_thread->warp;
  WarpGroup::PerWarp& mine = my_warp(group);
  if (number <= mine.waited) return;
  for (WgmmaProduct& product : group.products) {
    if (product.number > number) break;
    if (product.waited & my_bit()) continue;
    product.waited |= my_bit();
    for (size_t lane = 0; lane < 32 && !product.a.empty(); ++lane) {
      const WgmmaRegisters& a = product.a[static_cast<size_t>(warp.index % 4) * 32 + lane];
      if (std::memcmp(a.at, a.value, sizeof a.value) != 0) {
        fault("wgmma: registers of A were changed while under way", {});
      }
    }
    const size_t quarter = product.lines.size() / 4;
    const size_t first = static_cast<size_t>(warp.index % 4) * quarter;
    for (size_t i = first; i < first + quarter; ++i) {
      warp.block->shared.end_read(product.lines[i], whole_warp(warp.index));
    }
  }
  while (!group.products.empty() && group.products.front().waited == kAllWarps) {
    group.products.pop_front();
  }
  for (std::unique_ptr<WgmmaSums>& sums : group.sums) {
    if (sums->last <= number && !(sums->landed & my_bit())) {
      land(*sums, warp.index % 4);
      mine.fenced = false;
    }
  }
  std::erase_if(group.sums, [](const auto& sums) { return sums->landed == kAllWarps; });
  mine.waited = number;
}

}  // namespace

std::string WarpGroup::describe() const {
  return "wgmma, whose warpgroup is not complete";
}

void wgmma_fence(std::source_location where) {
  WarpGroup& group = my_group("wgmma_fence", where);
  meet_warp(kFence, {}, where);
  my_warp(group).fenced = true;
}

void wgmma_product(const WgmmaCall& call, std::source_location where) {
  WarpGroup& group = my_group("wgmma", where);
  const uint64_t before = group.issued;
  meet_warp(kWgmma, {nullptr, &call, nullptr, 0}, where);
  while (group.issued == before) sleep_on(group, where);
}

void wgmma_commit(std::source_location where) {
  WarpGroup& group = my_group("wgmma_commit", where);
  meet_warp(kCommit, {}, where);
  if (current_thread->lane != 0) return;
  WarpGroup::PerWarp& mine = my_warp(group);
  mine.committed = group.issued;
  mine.group_ends.push_back(group.issued);
}

void wgmma_wait(size_t pending, std::source_location where) {
  WarpGroup& group = my_group("wgmma_wait", where);
  meet_warp(kWait, {}, where);
  WarpGroup::PerWarp& mine = my_warp(group);
  uint64_t number = 0;
  while (mine.group_ends.size() > pending) {
    number = mine.group_ends.front();
    mine.group_ends.pop_front();
  }
  if (number != 0) land_until(group, number);
  meet_warp(kWait, {}, where);
}

void wgmma_own(const void* sums, std::source_location where) {
  const size_t thread = static_cast<size_t>(current_thread->index) % 128;
  WarpGroup& group = my_group("wgmma_own", where);
  for (const std::unique_ptr<WgmmaSums>& each : group.sums) {
    if (each->registers[thread] == sums && !(each->landed & my_bit())) {
      fault("wgmma_own: the sums are under way, they were not waited for", where);
    }
  }
  my_warp(group).fenced = false;
}

}  // namespace qcore::simt
