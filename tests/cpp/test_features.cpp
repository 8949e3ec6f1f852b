#include <gtest/gtest.h>

#include "cpu/features.h"

namespace qcore {
namespace {

constexpr uint32_t bits(std::initializer_list<int> list) {
  uint32_t word = 0;
  for (const int i : list) word |= 1u << i;
  return word;
}

// A processor that answers everything, under a system that saves every register.
constexpr CpuFacts kEverything{.leaf1_ecx = bits({12, 27, 28, 29}),
                               .leaf7_ebx = bits({5, 16, 17, 30, 31}),
                               .leaf7_ecx = bits({11}),
                               .leaf7_1_eax = bits({4}),
                               .xcr0 = bits({1, 2, 5, 6, 7})};

std::string names_of(auto change) {
  CpuFacts cpu = kEverything;
  change(cpu);
  return names_of(features_of(cpu));
}

TEST(Features, EverySetNeedsItsBits) {
  EXPECT_EQ(names_of([](CpuFacts&) {}), "scalar, avx2, avxvnni, avx512");
  EXPECT_EQ(names_of(features_of(CpuFacts{})), "scalar");
  for (const int bit : {12, 27, 28, 29}) {
    EXPECT_EQ(names_of([&](CpuFacts& cpu) { cpu.leaf1_ecx &= ~(1u << bit); }), "scalar") << bit;
  }
  EXPECT_EQ(names_of([](CpuFacts& cpu) { cpu.leaf7_ebx &= ~(1u << 5); }), "scalar");
  for (const int bit : {16, 17, 30, 31}) {
    EXPECT_EQ(names_of([&](CpuFacts& cpu) { cpu.leaf7_ebx &= ~(1u << bit); }),
              "scalar, avx2, avxvnni")
        << bit;
  }
  EXPECT_EQ(names_of([](CpuFacts& cpu) { cpu.leaf7_ecx = 0; }), "scalar, avx2, avxvnni");
}

TEST(Features, AvxVnniAndAvx512AreIndependent) {
  EXPECT_EQ(names_of([](CpuFacts& cpu) { cpu.leaf7_1_eax = 0; }), "scalar, avx2, avx512");
  EXPECT_EQ(names_of([](CpuFacts& cpu) { cpu.leaf7_1_eax = cpu.leaf7_ecx = 0; }), "scalar, avx2");
}

TEST(Features, TheSystemMustSaveTheRegisters) {
  for (const int bit : {1, 2}) {
    EXPECT_EQ(names_of([&](CpuFacts& cpu) { cpu.xcr0 &= ~(uint64_t{1} << bit); }), "scalar") << bit;
  }
  for (const int bit : {5, 6, 7}) {
    EXPECT_EQ(names_of([&](CpuFacts& cpu) { cpu.xcr0 &= ~(uint64_t{1} << bit); }),
              "scalar, avx2, avxvnni")
        << bit;
  }
}

CpuFeatures set_of(std::initializer_list<Isa> list) {
  CpuFeatures features;
  for (const Isa isa : list) features = features | features_of(isa);
  return features;
}

TEST(ChooseIsa, TakesWhatTheMachineHas) {
  const CpuFeatures zen4 = set_of({Isa::avx2, Isa::avx512});
  const CpuFeatures alder_lake = set_of({Isa::avx2, Isa::avxvnni});
  EXPECT_EQ(choose_isa(zen4, nullptr).isa, Isa::avx512);
  EXPECT_EQ(choose_isa(zen4, "").isa, Isa::avx512);
  EXPECT_EQ(choose_isa(alder_lake, nullptr).isa, Isa::avxvnni);
  EXPECT_EQ(choose_isa(alder_lake, "avxvnni").isa, Isa::avxvnni);
  EXPECT_EQ(choose_isa(zen4, "avx2").isa, Isa::avx2);
  EXPECT_EQ(choose_isa({}, nullptr).isa, Isa::scalar);
  for (const CpuFeatures& machine : {zen4, alder_lake, CpuFeatures()}) {
    for (const Isa isa : kIsas) {
      const IsaChoice choice = choose_isa(machine, name(isa));
      EXPECT_EQ(choice.status.ok(), machine.has(features_of(isa))) << name(isa);
      if (machine.has(features_of(isa))) {
        EXPECT_EQ(choice.isa, isa);
      }
    }
  }
}

TEST(ChooseIsa, AllowsWhatTheSetHasAndNoMore) {
  const CpuFeatures zen5 = set_of({Isa::avx2, Isa::avxvnni, Isa::avx512});
  EXPECT_EQ(choose_isa(zen5, nullptr).allowed, zen5);
  for (const Isa isa : kIsas) {
    EXPECT_EQ(choose_isa(zen5, name(isa)).allowed, features_of(isa)) << name(isa);
    EXPECT_EQ(isa_of(features_of(isa)), isa) << name(isa);
  }
}

TEST(ChooseIsa, NamesWhatTheMachineHasInstead) {
  EXPECT_EQ(choose_isa(set_of({Isa::avx2, Isa::avx512}), "avxvnni").status.message(),
            "QCORE_FORCE_ISA=avxvnni: this machine has scalar, avx2, avx512");
  EXPECT_EQ(choose_isa(set_of({Isa::avx2, Isa::avxvnni}), "avx512").status.message(),
            "QCORE_FORCE_ISA=avx512: this machine has scalar, avx2, avxvnni");
  EXPECT_EQ(choose_isa({}, "sse9").status.message(),
            "QCORE_FORCE_ISA=sse9: expected scalar, avx2, avxvnni or avx512");
}

TEST(ChooseIsa, ThisMachineHasItsStrongest) {
  EXPECT_TRUE(has_isa(Isa::scalar));
  EXPECT_TRUE(has_isa(detected_isa()));
  for (const Isa isa : kIsas) {
    if (has_isa(isa)) {
      EXPECT_LE(isa, detected_isa());
    }
  }
}

}  // namespace
}  // namespace qcore
