// A process without Python: loads the ops, runs a package of AOTInductor on x read from standard
// input, writes y to standard output.  aoti_runner <libqcore_ops.so> <package.pt2> <rows> <columns>
#include <ATen/ops/empty.h>
#include <dlfcn.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>

#include <cstdio>
#include <string>

int main(int, char** argv) {
  if (dlsym(RTLD_DEFAULT, "Py_IsInitialized")) return std::fprintf(stderr, "here is Python\n"), 1;
  if (!dlopen(argv[1], RTLD_NOW)) return std::fprintf(stderr, "%s\n", dlerror()), 1;
  at::Tensor x = at::empty({std::stoi(argv[3]), std::stoi(argv[4])});
  if (std::fread(x.data_ptr(), x.nbytes(), 1, stdin) != 1) return 1;
  torch::inductor::AOTIModelPackageLoader model(argv[2]);
  const at::Tensor y = model.run({x}).at(0).contiguous();
  return std::fwrite(y.data_ptr(), y.nbytes(), 1, stdout) == 1 ? 0 : 1;
}
