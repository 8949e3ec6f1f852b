// qcore._C: a view of libqcore_ops.so's lists for Python. The ops are in that library, which knows
// nothing of Python and is loaded first (qcore/__init__.py): this module alone is built once per
// Python.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "introspection.h"

namespace py = pybind11;
using namespace py::literals;
using namespace qcore::binding;

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

py::dict to_dict(const Record& record) {
  py::dict result;
  for (const auto& [name, value] : record) result[name.c_str()] = py::cast(value);
  return result;
}

template <class... Arguments>
auto as_dicts(std::vector<Record> (*list)(Arguments...)) {
  return [list](Arguments... arguments) {
    py::list result;
    for (const Record& record : list(arguments...)) result.append(to_dict(record));
    return result;
  };
}

}  // namespace

PYBIND11_MODULE(_C, m, py::mod_gil_not_used()) {
  if (version() != QCORE_VERSION) {
    throw py::import_error("qcore._C is of version " QCORE_VERSION ", libqcore_ops.so of " +
                           version() + ": they must be of one");
  }
  on_out_of_memory(&raise_out_of_memory);
  m.doc() = "The lists of formats, layouts and kernels of libqcore_ops.so.";
  m.def("version", &version);
  m.def("cuda_built", &cuda_built);
  m.def("cpu_isa", &cpu_isa);
  m.def("isas", &list_isas);
  m.def("formats", as_dicts(&list_formats));
  m.def("block_formats", as_dicts(&list_block_formats));
  m.def("kernels", as_dicts(&list_kernels));
  m.def("layouts", as_dicts(&list_layouts));
  m.def("explain", &explain, "op"_a, "m"_a, "n"_a, "k"_a, "group_size"_a, "bits"_a = 4,
        "has_zeros"_a = false, "dtype"_a = "float32", "device"_a = "cpu", "layout"_a = 0,
        "sm"_a = 0, "multiprocessors"_a = 0, "batch_invariant"_a = false);
  m.def("want_huge_pages", &want_huge_pages, "address"_a, "bytes"_a);
  m.def("explain_kquant", &explain_kquant, "type"_a, "m"_a, "n"_a, "k"_a, "dtype"_a = "float32",
        "device"_a = "cpu", "layout"_a = 0);
  m.def("packed_blocks", as_dicts(&packed_blocks), "type"_a, "n"_a, "k"_a);
  m.def("packed_sizes", &packed_sizes, "op"_a, "n"_a, "k"_a, "group_size"_a, "bits"_a,
        "has_zeros"_a, "scale_dtype"_a, "device"_a, "layout"_a = 0);
}
