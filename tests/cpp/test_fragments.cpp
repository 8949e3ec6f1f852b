#include <gtest/gtest.h>

#include <set>
#include <utility>

#include "ptx/fragments.h"

namespace qcore::fragments {
namespace {

using Place = std::pair<int, int>;

Place place(Element e) {
  return {e.row, e.column};
}

// The formulas of the PTX ISA, section "Matrix Fragments for mma.m16n8k16 with floating point
// type", as they stand there.
TEST(Fragments, MmaFollowsThePtxIsa) {
  for (int laneid = 0; laneid < 32; ++laneid) {
    const int groupID = laneid >> 2, threadID_in_group = laneid % 4;
    for (int i = 0; i < 8; ++i) {
      const int row = (0 <= i && i < 2) || (4 <= i && i < 6) ? groupID : groupID + 8;
      const int col = i < 4 ? threadID_in_group * 2 + (i & 1) : threadID_in_group * 2 + (i & 1) + 8;
      EXPECT_EQ(place(a_element(laneid, i)), (Place{row, col})) << laneid << " " << i;
    }
    for (int i = 0; i < 4; ++i) {
      const int row = i < 2 ? threadID_in_group * 2 + (i & 1) : threadID_in_group * 2 + (i & 1) + 8;
      EXPECT_EQ(place(b_element(laneid, i)), (Place{row, groupID})) << laneid << " " << i;
    }
    for (int i = 0; i < 4; ++i) {
      const int row = i < 2 ? groupID : groupID + 8;
      const int col = threadID_in_group * 2 + (i & 1);
      EXPECT_EQ(place(c_element(laneid, i)), (Place{row, col})) << laneid << " " << i;
    }
  }
}

// Likewise for 8-bit elements: section "Matrix Fragments for mma.m16n8k32".
TEST(Fragments, MmaOf8BitsFollowsThePtxIsa) {
  for (int laneid = 0; laneid < 32; ++laneid) {
    const int groupID = laneid >> 2, threadID_in_group = laneid % 4;
    for (int i = 0; i < 16; ++i) {
      const int row = (0 <= i && i < 4) || (8 <= i && i < 12) ? groupID : groupID + 8;
      const int col =
          i < 8 ? threadID_in_group * 4 + (i & 3) : threadID_in_group * 4 + (i & 3) + 16;
      EXPECT_EQ(place(a8_element(laneid, i)), (Place{row, col})) << laneid << " " << i;
    }
    for (int i = 0; i < 8; ++i) {
      const int row =
          i < 4 ? threadID_in_group * 4 + (i & 3) : threadID_in_group * 4 + (i & 3) + 16;
      EXPECT_EQ(place(b8_element(laneid, i)), (Place{row, groupID})) << laneid << " " << i;
    }
  }
}

// What lets ldmatrix, which knows 16-bit elements alone, bring bytes.
TEST(Fragments, PairsOfBytesStandWhere16BitElementsDo) {
  for (int lane = 0; lane < 32; ++lane) {
    for (int i = 0; i < 16; ++i) {
      const Element e = a_element(lane, i / 2);
      EXPECT_EQ(place(a8_element(lane, i)), (Place{e.row, 2 * e.column + i % 2}));
    }
    for (int i = 0; i < 8; ++i) {
      const Element e = b_element(lane, i / 2);
      EXPECT_EQ(place(b8_element(lane, i)), (Place{2 * e.row + i % 2, e.column}));
    }
  }
}

// The picture of the destination in section "ldmatrix": row by row, the lanes of its four
// registers.
TEST(Fragments, LdmatrixFollowsThePtxIsa) {
  constexpr int kLanes[8][4] = {{0, 1, 2, 3},     {4, 5, 6, 7},     {8, 9, 10, 11},
                                {12, 13, 14, 15}, {16, 17, 18, 19}, {20, 21, 22, 23},
                                {24, 25, 26, 27}, {28, 29, 30, 31}};
  for (int row = 0; row < 8; ++row) {
    for (int column = 0; column < 8; ++column) {
      const int lane = kLanes[row][column / 2];
      EXPECT_EQ(place(ldmatrix_element(lane, column % 2)), (Place{row, column}));
    }
  }
}

int distinct(Element (*element)(int, int), int per_lane, int rows, int columns) {
  std::set<Place> held;
  for (int lane = 0; lane < 32; ++lane) {
    for (int i = 0; i < per_lane; ++i) {
      const Element e = element(lane, i);
      EXPECT_TRUE(e.row >= 0 && e.row < rows && e.column >= 0 && e.column < columns);
      held.insert(place(e));
    }
  }
  return static_cast<int>(held.size());
}

TEST(Fragments, EveryElementIsHeldOnce) {
  EXPECT_EQ(distinct(a_element, 2 * kARegisters, 16, 16), 32 * 2 * kARegisters);
  EXPECT_EQ(distinct(b_element, 2 * kBRegisters, 16, 8), 32 * 2 * kBRegisters);
  EXPECT_EQ(distinct(a8_element, 4 * kARegisters, 16, 32), 32 * 4 * kARegisters);
  EXPECT_EQ(distinct(b8_element, 4 * kBRegisters, 32, 8), 32 * 4 * kBRegisters);
  EXPECT_EQ(distinct(c_element, kCRegisters, 16, 8), 32 * kCRegisters);
  EXPECT_EQ(distinct(ldmatrix_element, 2, 8, 8), 64);
}

// Four matrices of ldmatrix, in the order (rows 0-7, 8-15) x (columns 0-7, 8-15) with rows first,
// are the fragment of A.
TEST(Fragments, LdmatrixGivesTheFragmentOfA) {
  for (int lane = 0; lane < 32; ++lane) {
    for (int j = 0; j < 4; ++j) {
      for (int i = 0; i < 2; ++i) {
        const Element e = ldmatrix_element(lane, i);
        EXPECT_EQ(place(a_element(lane, 2 * j + i)),
                  (Place{e.row + 8 * (j % 2), e.column + 8 * (j / 2)}));
      }
    }
  }
}

}  // namespace
}  // namespace qcore::fragments
