#include <gtest/gtest.h>

#include <cstdlib>
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

const Problem kProblem{.weight = {.n = 16, .k = 64, .group_size = 32}};

TEST(Registry, NamesAreUniqueAndTheReferenceIsLastOnTheCpu) {
  std::set<std::string> names;
  for (const KernelRow& row : kernels()) {
    EXPECT_TRUE(names.insert(row.name).second) << row.name;
    EXPECT_EQ(std::string(row.name).rfind(std::string(row.op) + "_", 0), 0u) << row.name;
  }
  EXPECT_STREQ(kernels().back().name, "w4a16_reference");
}

TEST(Registry, TakesTheFastestRow) {
  const Selection selection = select("w4a16", kProblem);
  ASSERT_NE(selection.row, nullptr) << selection.status.message();
  EXPECT_EQ(selection.row, runnable_rows("w4a16").front());
}

TEST(Registry, EveryRowReadsAListedLayout) {
  for (const KernelRow& row : kernels()) {
    const Layout* found = find_layout(row.layout->number);
    ASSERT_NE(found, nullptr);
    EXPECT_EQ(found, row.layout);
  }
  EXPECT_EQ(find_layout(999), nullptr);
}

TEST(Registry, SaysWhatIsWrongWithAProblem) {
  EXPECT_NE(select("no_such_op", kProblem).status.message().find("no_such_op"), std::string::npos);
  Problem problem = kProblem;
  problem.layout = 999;
  Selection selection = select("w4a16", problem);
  EXPECT_EQ(selection.row, nullptr);
  EXPECT_NE(selection.status.message().find("layout 999"), std::string::npos);
  EXPECT_GE(selection.rejected.size(), runnable_rows("w4a16").size());
  problem = kProblem;
  problem.weight.bits = 5;
  EXPECT_NE(select("w4a16", problem).status.message().find("bits: expected"), std::string::npos);
}

TEST(ForceIsa, HidesStrongerRowsAndSaysSo) {
  for (const Isa isa : {Isa::scalar, Isa::avx2, Isa::avx512}) {
    const Env env("QCORE_FORCE_ISA", name(isa));
    const Selection selection = select("w4a16", kProblem);
    if (isa > detected_isa()) {
      EXPECT_EQ(selection.row, nullptr);
      EXPECT_NE(selection.status.message().find("this machine has"), std::string::npos);
      continue;
    }
    EXPECT_EQ(active_isa(), isa);
    ASSERT_NE(selection.row, nullptr);
    EXPECT_EQ(selection.row->isa, isa);
    for (const Rejection& rejection : selection.rejected) {
      if (std::string_view(rejection.kernel).find("avx") == std::string_view::npos) continue;
      EXPECT_NE(rejection.reason.find("QCORE_FORCE_ISA="), std::string::npos) << rejection.reason;
    }
  }
}

TEST(ForceIsa, UnknownNameIsAnError) {
  const Env env("QCORE_FORCE_ISA", "sse9");
  const Selection selection = select("w4a16", kProblem);
  EXPECT_EQ(selection.row, nullptr);
  EXPECT_EQ(selection.status.message(), "QCORE_FORCE_ISA=sse9: expected scalar, avx2 or avx512");
}

TEST(ForceKernel, Takes) {
  for (const KernelRow* row : runnable_rows("w4a16")) {
    const Env env("QCORE_FORCE_KERNEL", row->name);
    EXPECT_EQ(select("w4a16", kProblem).row, row);
  }
}

// Packing asks for a row before the activations are known, and must get the forced one.
TEST(ForceKernel, TakesForPackingOnEveryDevice) {
  for (const KernelRow& row : kernels()) {
    if (row.device() == Device::cpu && row.isa > detected_isa()) continue;
    const Env env("QCORE_FORCE_KERNEL", row.name);
    const Selection selection = select(row.op, {.device = row.device(), .weight = kProblem.weight});
    EXPECT_EQ(selection.row, &row) << selection.status.message();
  }
}

TEST(Registry, ChoosesByTheGpu) {
  for (const KernelRow& row : kernels()) {
    if (row.device() != Device::cuda) continue;
    Problem problem{.device = Device::cuda, .dtype = DType::f16, .m = 1, .weight = kProblem.weight};
    problem.sm = row.sm;
    EXPECT_NE(select(row.op, problem).row, nullptr);
    problem.sm = 75;
    const Selection old = select(row.op, problem);
    EXPECT_EQ(old.row, nullptr);
    EXPECT_NE(old.status.message().find("this GPU has 7.5"), std::string::npos);
  }
}

TEST(Registry, NamesADeviceWithoutKernels) {
  for (const KernelRow& row : kernels()) {
    if (row.device() == Device::cuda) GTEST_SKIP() << "this build has CUDA rows";
  }
  const Selection selection = select("w4a16", {.device = Device::cuda, .weight = kProblem.weight});
  EXPECT_EQ(selection.status.message(), "w4a16: this build has no kernels for cuda");
}

TEST(ForceKernel, UnknownNameListsTheNames) {
  const Env env("QCORE_FORCE_KERNEL", "w4a16_abacus");
  const Selection selection = select("w4a16", kProblem);
  EXPECT_EQ(selection.row, nullptr);
  for (const KernelRow& row : kernels()) {
    EXPECT_NE(selection.status.message().find(row.name), std::string::npos);
  }
}

TEST(ForceKernel, SaysWhyTheRowCannot) {
  const Env env("QCORE_FORCE_KERNEL", "w4a16_reference");
  Problem problem = kProblem;
  problem.layout = 999;
  const Selection selection = select("w4a16", problem);
  EXPECT_EQ(selection.row, nullptr);
  EXPECT_NE(selection.status.message().find("w4a16_reference: the kernel reads layout"),
            std::string::npos);
  // It names a row of another op, so this op is not constrained by it.
  EXPECT_NE(select("other_op", kProblem).status.message().find("no kernel is named"),
            std::string::npos);
}

TEST(ForceKernel, StrongerThanTheForcedIsaIsAnError) {
  if (detected_isa() == Isa::scalar) GTEST_SKIP() << "no stronger row here";
  const Env kernel("QCORE_FORCE_KERNEL", "w4a16_avx2");
  const Env isa("QCORE_FORCE_ISA", "scalar");
  const Selection selection = select("w4a16", kProblem);
  EXPECT_EQ(selection.row, nullptr);
  EXPECT_NE(selection.status.message().find("needs avx2"), std::string::npos);
}

// That a forced row also computes: the reference rounds once, the vector rows in fp32 along the
// way, so their results differ. (Those of two vector rows do not, by their promise.)
TEST(ForceKernel, GemmRunsTheForcedRow) {
  Rng rng(5);
  Case shape{.weight = {.n = 16, .k = 512, .group_size = 512}, .m = 1};
  const GemmData data = random_data(shape, rng);
  const auto rows = runnable_rows("w4a16");
  std::vector<float> reference(16);
  const Packed for_reference = pack(*rows.back(), data.weight);
  ASSERT_TRUE(rows.back()->gemm(data.args(for_reference.view, reference.data()), {}).ok());
  for (const KernelRow* row : rows) {
    const Packed packed = pack(*row, data.weight);
    std::vector<float> forced(16), direct(16);
    const Env env("QCORE_FORCE_KERNEL", row->name);
    ASSERT_TRUE(w4a16_gemm(data.args(packed.view, forced.data()), {}).ok());
    ASSERT_TRUE(row->gemm(data.args(packed.view, direct.data()), {}).ok());
    EXPECT_EQ(forced, direct) << row->name;
    if (row != rows.back()) {
      EXPECT_NE(forced, reference) << row->name;
    }
  }
}

}  // namespace
}  // namespace qcore
