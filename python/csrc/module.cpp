// qcore._C. Importing it registers the torch ops (each family's own file does, when loaded) and
// gives Python a view of the core's lists. It only registers: the work is in the files it names.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "introspection.h"
#include "memory.h"
#include "qcore/qcore.h"

namespace py = pybind11;
using namespace py::literals;

namespace {

// torch's own calls from Python translate what they catch by pybind11 too, and ask the exception.
class OutOfMemory : public py::builtin_exception {
 public:
  using builtin_exception::builtin_exception;
  void set_error() const override {
    py::set_error(py::module_::import("torch").attr("OutOfMemoryError"), what());
  }
};

[[noreturn]] void raise_out_of_memory(const char* message) {
  throw OutOfMemory(message);
}

}  // namespace

PYBIND11_MODULE(_C, m, py::mod_gil_not_used()) {
  qcore_set_out_of_memory(&raise_out_of_memory);
  m.doc() =
      "Native part of qcore: torch.ops.qcore.* and the lists of formats, layouts and kernels.";
  m.def("version", &qcore::version);
  m.def("cuda_built", [] { return QCORE_CUDA_BUILT != 0; });
  m.def("cpu_isa", [] { return qcore::name(qcore::active_isa()); });
  m.def("isas", &qcore::binding::list_isas);
  m.def("formats", &qcore::binding::list_formats);
  m.def("block_formats", &qcore::binding::list_block_formats);
  m.def("kernels", &qcore::binding::list_kernels);
  m.def("layouts", &qcore::binding::list_layouts);
  m.def("explain", &qcore::binding::explain, "op"_a, "m"_a, "n"_a, "k"_a, "group_size"_a,
        "bits"_a = 4, "has_zeros"_a = false, "dtype"_a = "float32", "device"_a = "cpu",
        "layout"_a = 0, "sm"_a = 0, "multiprocessors"_a = 0, "batch_invariant"_a = false);
  m.def(
      "want_huge_pages",
      [](uintptr_t address, int64_t bytes) {
        qcore::want_huge_pages(reinterpret_cast<void*>(address), bytes);
      },
      "address"_a, "bytes"_a);
  m.def("explain_kquant", &qcore::binding::explain_kquant, "type"_a, "m"_a, "n"_a, "k"_a,
        "dtype"_a = "float32", "device"_a = "cpu", "layout"_a = 0);
  m.def("packed_blocks", &qcore::binding::packed_blocks, "type"_a, "n"_a, "k"_a);
  m.def("packed_sizes", &qcore::binding::packed_sizes, "op"_a, "n"_a, "k"_a, "group_size"_a,
        "bits"_a, "has_zeros"_a, "scale_dtype"_a, "device"_a, "layout"_a = 0);
}
