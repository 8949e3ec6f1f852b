// The core's lists in words of the standard library: what qcore._C shows to Python. Names of dtypes
// are torch's ("float16"). Of libqcore_ops.so only this and the registered ops are seen outside.
#pragma once

#include <cstdint>
#include <string>
#include <tuple>
#include <utility>
#include <variant>
#include <vector>

#pragma GCC visibility push(default)

namespace qcore::binding {

using Value = std::variant<bool, int64_t, std::string, std::vector<int>>;
using Record = std::vector<std::pair<std::string, Value>>;

std::string version();
bool cuda_built();
std::string cpu_isa();
void want_huge_pages(uintptr_t address, int64_t bytes);
// How torch.OutOfMemoryError is thrown in a process of Python: the libraries that this one links
// against have no such exception. `raise` does not return; without it, std::runtime_error.
void on_out_of_memory(void (*raise)(const char* message));

std::vector<Record> list_formats();        // name, summary
std::vector<Record> list_block_formats();  // name, ggml_type, elements, bytes
std::vector<Record> list_kernels();        // name, op, format, device, isa, sm, layout
std::vector<std::string> list_isas();      // that this machine can run, weakest first
std::vector<Record> list_layouts();        // number, name, format, device

// The kernel that would take the problem, the faster ones that were passed over with the reason,
// and how it would cut the problem up, in words. Throws ValueError, with every reason, if none
// takes it. `layout` 0: the weight is not packed yet; `sm` and `multiprocessors` 0: a GPU is not
// known.
using Explanation =
    std::tuple<std::string, std::vector<std::pair<std::string, std::string>>, std::string>;
Explanation explain(const std::string& op, int64_t m, int64_t n, int64_t k, int64_t group_size,
                    int bits, bool has_zeros, const std::string& dtype, const std::string& device,
                    int layout, int sm, int multiprocessors, bool batch_invariant);

// The same for op "kquant" and a weight in a block format.
Explanation explain_kquant(const std::string& type, int64_t m, int64_t n, int64_t k,
                           const std::string& dtype, const std::string& device, int layout);

// What kquant_pack gives in each layout, the first one of a device being its default: layout, name,
// device, elements, and expert_elements, of each expert of a weight [E, n, k].
std::vector<Record> packed_blocks(const std::string& type, int64_t n, int64_t k);

// (layout, bytes of qweight, elements of scales, bytes of zeros) that packing would give: for fake
// kernels. `layout` 0: the one of the kernel that would be chosen on the device.
std::tuple<int, int64_t, int64_t, int64_t> packed_sizes(const std::string& op, int64_t n, int64_t k,
                                                        int64_t group_size, int bits,
                                                        bool has_zeros,
                                                        const std::string& scale_dtype,
                                                        const std::string& device, int64_t layout);

}  // namespace qcore::binding

#pragma GCC visibility pop
