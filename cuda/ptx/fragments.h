// Which element of a matrix each lane of a warp holds, for the instructions the kernels use: the
// fragment tables of the PTX ISA (section "Matrix fragments for mma.m16n8k16 with floating point
// type", "... m16n8k32", and ldmatrix), written once. The weight packer, the kernels and the
// emulator read them here.
#pragma once

namespace qcore::fragments {

struct Element {
  int row, column;
};

// mma.m16n8k16: D[16, 8] += A[16, 16] * B[16, 8]. Elements of a lane in register order, two 16-bit
// ones to a register of A and B, one fp32 to a register of C and D.
inline constexpr int kARegisters = 4, kBRegisters = 2, kCRegisters = 4;

constexpr Element a_element(int lane, int i) {  // i in 0 .. 7
  return {lane / 4 + (i & 2 ? 8 : 0), lane % 4 * 2 + (i & 1) + (i & 4 ? 8 : 0)};
}
constexpr Element b_element(int lane, int i) {  // i in 0 .. 3; row is k
  return {lane % 4 * 2 + (i & 1) + (i & 2 ? 8 : 0), lane / 4};
}
constexpr Element c_element(int lane, int i) {  // i in 0 .. 3
  return {lane / 4 + (i & 2 ? 8 : 0), lane % 4 * 2 + (i & 1)};
}

// mma.m16n8k32 of 8-bit elements: D[16, 8] += A[16, 32] * B[32, 8]. Four elements to a register of
// A and B; each pair of neighbours stands where a 16-bit element of m16n8k16 does, so ldmatrix
// brings these fragments as well. C and D are those above, of int32 or fp32.
constexpr Element a8_element(int lane, int i) {  // i in 0 .. 15
  return {lane / 4 + (i & 4 ? 8 : 0), lane % 4 * 4 + (i & 3) + (i & 8 ? 16 : 0)};
}
constexpr Element b8_element(int lane, int i) {  // i in 0 .. 7; row is k
  return {lane % 4 * 4 + (i & 3) + (i & 4 ? 16 : 0), lane / 4};
}

// ldmatrix of 8x8 matrices of 16-bit elements: the lane whose address names a row (lane 8 j + r
// names row r of matrix j), and what a lane receives of each matrix, two elements in one register.
constexpr Element ldmatrix_element(int lane, int i) {  // i in 0 .. 1
  return {lane / 4, lane % 4 * 2 + i};
}

// wgmma.m64nN: D[64, N] = A[64, 32 bytes] * B[N, 32 bytes]; `thread` of the warpgroup. D has N / 2
// numbers a thread, one to a register.
constexpr Element wgmma_d_element(int thread, int i) {
  return {thread / 32 * 16 + thread % 32 / 4 + (i & 2 ? 8 : 0),
          i / 4 * 8 + thread % 4 * 2 + (i & 1)};
}
// A in registers: the byte of a row that byte i (0 .. 15) of a thread's four registers is.
constexpr Element wgmma_a_byte(int thread, int i) {
  const Element e = a8_element(thread % 32, i);
  return {thread / 32 * 16 + e.row, e.column};
}

}  // namespace qcore::fragments
