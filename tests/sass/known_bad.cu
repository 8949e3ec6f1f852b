// A kernel that breaks the rules for qcore's own, to prove that the gate sees it: an array that is
// indexed at run time, bytes loaded one at a time, no matrix unit, registers far beyond the limit.
namespace qcore {
template <class T>
__global__ void __launch_bounds__(256, 8)  // 32 registers, which cannot be enough
    known_bad(const unsigned char* weights, const float* x, float* y, int n) {
  float sum[64] = {};
  for (int i = threadIdx.x; i < n; i += 256) {
#pragma unroll
    for (int j = 0; j < 64; ++j) sum[j] += static_cast<float>(weights[i * 64 + j]) * x[i];
    sum[i % 61] += x[i];
  }
  float all = 0;
#pragma unroll
  for (int j = 0; j < 64; ++j) all += sum[j] * x[j];
  y[threadIdx.x] = all;
}
template __global__ void known_bad<float>(const unsigned char*, const float*, float*, int);
}  // namespace qcore
