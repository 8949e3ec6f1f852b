#include <gtest/gtest.h>

#include <cstdlib>
#include <map>
#include <set>

#include "cases.h"

namespace qcore {
namespace {

using namespace testing;

// Sets a variable of the environment for one test, and puts the old value back.
class Env {
 public:
  Env(const char* name, const char* value) : name_(name) {
    if (const char* old = std::getenv(name)) old_ = old, had_ = true;
    setenv(name, value, 1);
  }
  Env(const Env&) = delete;
  Env& operator=(const Env&) = delete;
  ~Env() { had_ ? setenv(name_, old_.c_str(), 1) : unsetenv(name_); }

 private:
  const char* name_;
  std::string old_;
  bool had_ = false;
};

const W4A16::Problem kProblem{.weight = {.n = 16, .k = 64, .group_size = 32}};

TEST(Registry, NamesAreUniqueAndTheReferenceIsLastOnTheCpu) {
  std::set<std::string> names;
  std::map<std::string, const KernelRow*> last;
  for (const KernelRow* row : kernels()) {
    EXPECT_TRUE(names.insert(row->name).second) << row->name;
    EXPECT_EQ(std::string(row->name).rfind(std::string(row->op) + "_", 0), 0u) << row->name;
    if (row->device == Device::cpu) last[row->op] = row;
  }
  for (const auto& [op, row] : last) {
    EXPECT_EQ(row->name, op + "_reference");
    EXPECT_EQ(row->isa(), Isa::scalar);
  }
}

TEST(Registry, TakesTheFastestRow) {
  const auto choice = select<W4A16>(kProblem);
  ASSERT_NE(choice.row, nullptr) << choice.status.message();
  EXPECT_EQ(choice.row, runnable_rows<W4A16>().front());
}

TEST(Registry, EveryRowReadsAListedLayout) {
  for (const KernelRow* row : kernels()) {
    if (!row->layout) continue;  // it reads canonical tensors
    EXPECT_EQ(row->device, row->layout->device) << row->name;
    const Layout* found = find_layout(row->layout->number);
    ASSERT_NE(found, nullptr);
    EXPECT_EQ(found, row->layout);
    // The cast to the op's layout in Row::weight_layout() relies on it.
    if (row_of<W4A16>(*row)) {
      EXPECT_EQ(find_scaled_layout(row->layout->number), row->layout);
    }
    if (row_of<Kquant>(*row)) {
      EXPECT_EQ(find_block_layout(row->layout->number), row->layout);
    }
  }
  EXPECT_EQ(find_layout(999), nullptr);
}

TEST(Registry, SaysWhatIsWrongWithAProblem) {
  W4A16::Problem problem = kProblem;
  problem.layout = 999;
  const auto selection = select<W4A16>(problem);
  EXPECT_EQ(selection.row, nullptr);
  EXPECT_NE(selection.status.message().find("layout 999"), std::string::npos);
  EXPECT_GE(selection.rejected.size(), runnable_rows<W4A16>().size());
  problem = kProblem;
  problem.weight.elements = Elements::s8;
  EXPECT_NE(select<W4A16>(problem).status.message().find("elements: expected"), std::string::npos);
}

TEST(ForceIsa, HidesStrongerRowsAndSaysSo) {
  for (const Isa isa : kIsas) {
    const Env env("QCORE_FORCE_ISA", name(isa));
    const auto selection = select<W4A16>(kProblem);
    if (!has_isa(isa)) {
      EXPECT_EQ(selection.row, nullptr);
      EXPECT_NE(selection.status.message().find("this machine has"), std::string::npos);
      continue;
    }
    EXPECT_EQ(active_isa(), isa);
    ASSERT_NE(selection.row, nullptr);
    // An op need not have a row of its own for every set.
    for (const Row<W4A16>* row : runnable_rows<W4A16>()) {
      if (row->isa() > isa) continue;
      EXPECT_EQ(selection.row, row);
      break;
    }
    for (const Rejection& rejection : selection.rejected) {
      if (std::string_view(rejection.kernel).find("avx") == std::string_view::npos) continue;
      EXPECT_NE(rejection.reason.find("QCORE_FORCE_ISA="), std::string::npos) << rejection.reason;
    }
  }
}

TEST(ForceIsa, UnknownNameIsAnError) {
  const Env env("QCORE_FORCE_ISA", "sse9");
  const auto selection = select<W4A16>(kProblem);
  EXPECT_EQ(selection.row, nullptr);
  EXPECT_EQ(selection.status.message(),
            "QCORE_FORCE_ISA=sse9: expected scalar, avx2, avxvnni or avx512");
}

TEST(ForceKernel, Takes) {
  for (const Row<W4A16>* row : runnable_rows<W4A16>()) {
    const Env env("QCORE_FORCE_KERNEL", row->name);
    EXPECT_EQ(select<W4A16>(kProblem).row, row);
  }
}

// Packing asks for a row before the activations are known, and must get the forced one.
TEST(ForceKernel, TakesForPackingOnEveryDevice) {
  for (const Device device : {Device::cpu, Device::cuda}) {
    for (const Row<W4A16>* row : rows_on<W4A16>(device)) {
      const Env env("QCORE_FORCE_KERNEL", row->name);
      const auto selection = select<W4A16>({.device = device, .weight = kProblem.weight});
      EXPECT_EQ(selection.row, row) << selection.status.message();
    }
  }
}

TEST(Registry, ChoosesByTheGpu) {
  for (const Row<W4A16>* row : rows_on<W4A16>(Device::cuda)) {
    W4A16::Problem problem{
        .device = Device::cuda, .dtype = DType::f16, .m = 1, .weight = kProblem.weight};
    problem.sm = row->sm;
    EXPECT_NE(select<W4A16>(problem).row, nullptr);
    problem.sm = 75;
    const auto old = select<W4A16>(problem);
    EXPECT_EQ(old.row, nullptr);
    EXPECT_NE(old.status.message().find("this GPU has 7.5"), std::string::npos);
  }
}

TEST(Registry, NamesADeviceWithoutKernels) {
  if (!rows_on<W4A16>(Device::cuda).empty()) GTEST_SKIP() << "this build has CUDA rows";
  const auto selection = select<W4A16>({.device = Device::cuda, .weight = kProblem.weight});
  EXPECT_EQ(selection.status.message(), "w4a16: this build has no kernels for cuda");
}

TEST(ForceKernel, UnknownNameListsTheNames) {
  const Env env("QCORE_FORCE_KERNEL", "w4a16_abacus");
  const auto selection = select<W4A16>(kProblem);
  EXPECT_EQ(selection.row, nullptr);
  for (const KernelRow* row : kernels()) {
    EXPECT_NE(selection.status.message().find(row->name), std::string::npos);
  }
}

TEST(ForceKernel, SaysWhyTheRowCannot) {
  const Env env("QCORE_FORCE_KERNEL", "w4a16_reference");
  W4A16::Problem problem = kProblem;
  problem.layout = 999;
  const auto selection = select<W4A16>(problem);
  EXPECT_EQ(selection.row, nullptr);
  EXPECT_NE(selection.status.message().find("w4a16_reference: the kernel reads layout"),
            std::string::npos);
}

TEST(ForceKernel, StrongerThanTheForcedIsaIsAnError) {
  if (detected_isa() == Isa::scalar) GTEST_SKIP() << "no stronger row here";
  const Env kernel("QCORE_FORCE_KERNEL", "w4a16_avx2");
  const Env isa("QCORE_FORCE_ISA", "scalar");
  const auto selection = select<W4A16>(kProblem);
  EXPECT_EQ(selection.row, nullptr);
  EXPECT_NE(selection.status.message().find("needs avx2"), std::string::npos);
}

// That a forced row also computes: the reference rounds once, the vector rows in fp32 along the
// way, so their results differ. (Those of two vector rows do not, by their promise.)
TEST(ForceKernel, GemmRunsTheForcedRow) {
  Rng rng(5);
  Case shape{.weight = {.n = 16, .k = 512, .group_size = 512}, .m = 1};
  const GemmData data = random_data(shape, rng);
  const auto rows = runnable_rows<W4A16>();
  std::vector<float> reference(16);
  const Packed for_reference = pack(*rows.back(), data.weight);
  ASSERT_TRUE(rows.back()->run(data.args(for_reference.view, reference.data()), {}).ok());
  for (const Row<W4A16>* row : rows) {
    const Packed packed = pack(*row, data.weight);
    std::vector<float> forced(16), direct(16);
    const Env env("QCORE_FORCE_KERNEL", row->name);
    ASSERT_TRUE(w4a16_gemm(data.args(packed.view, forced.data()), {}).ok());
    ASSERT_TRUE(row->run(data.args(packed.view, direct.data()), {}).ok());
    EXPECT_EQ(forced, direct) << row->name;
    if (row != rows.back()) {
      EXPECT_NE(forced, reference) << row->name;
    }
  }
}

}  // namespace
}  // namespace qcore
