#include "registration.h"

#include <string>

// From torch 2.12 on; null in an older one. The headers hide them from a build for 2.10.
extern "C" {
[[gnu::weak]] int32_t torch_tag_pt2_compliant_tag();
[[gnu::weak]] AOTITorchError torch_library_def_with_tags(TorchLibraryHandle self,
                                                         const char* schema, const int32_t* tags,
                                                         int32_t count);
}

namespace qcore::binding {
namespace {

std::string overload(std::string schema, const std::string& name) {
  return schema.insert(schema.find('('), "." + name);
}

}  // namespace

Registration::Registration(std::initializer_list<Op> ops) {
  TORCH_ERROR_CODE_CHECK(aoti_torch_library_init_fragment("qcore", __FILE__, __LINE__, &schemas_));
  TORCH_ERROR_CODE_CHECK(aoti_torch_library_init_impl("qcore", "CPU", __FILE__, __LINE__, &cpu_));
  TORCH_ERROR_CODE_CHECK(aoti_torch_library_init_impl("qcore", "CUDA", __FILE__, __LINE__, &cuda_));
  for (const Op& op : ops) {
    const std::string schema = op.schema;
    add(schema, op.traits, op.kernel);
    if (op.traits & kAutograd) add(overload(schema, "no_grad"), op.traits, op.kernel);
    const std::string arguments = schema.substr(0, schema.rfind(") ->"));
    if (op.out) {
      const char* const given = ", *, Tensor(a!) out, Tensor(b!)? workspace=None) -> ()";
      add(overload(arguments + given, "out"), op.traits, op.out);
    }
    if (op.workspace_bytes) {
      add(overload(arguments + ") -> int", "workspace_bytes"), op.traits, op.workspace_bytes);
    }
  }
}

// Every op has a fake kernel, hence the tag.
void Registration::define(const char* schema) {
  if (torch_library_def_with_tags && torch_tag_pt2_compliant_tag) {
    const int32_t tag = torch_tag_pt2_compliant_tag();
    TORCH_ERROR_CODE_CHECK(torch_library_def_with_tags(schemas_, schema, &tag, 1));
  } else {
    TORCH_ERROR_CODE_CHECK(aoti_torch_library_def(schemas_, schema));
  }
}

void Registration::add(const std::string& schema, unsigned traits, Kernel kernel) {
  define(schema.c_str());
  const std::string name = schema.substr(0, schema.find('('));
  for (const TorchLibraryHandle library : {cpu_, traits & kCpuOnly ? nullptr : cuda_}) {
    if (!library) continue;
    TORCH_ERROR_CODE_CHECK(torch_library_impl(library, name.c_str(), kernel, TORCH_ABI_VERSION));
  }
}

}  // namespace qcore::binding
