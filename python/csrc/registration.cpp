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

Registration::Registration(std::initializer_list<Op> ops) {
  TORCH_ERROR_CODE_CHECK(aoti_torch_library_init_fragment("qcore", __FILE__, __LINE__, &schemas_));
  TORCH_ERROR_CODE_CHECK(aoti_torch_library_init_impl("qcore", "CPU", __FILE__, __LINE__, &cpu_));
  TORCH_ERROR_CODE_CHECK(aoti_torch_library_init_impl("qcore", "CUDA", __FILE__, __LINE__, &cuda_));
  for (const Op& op : ops) {
    add(op);
    if (!(op.traits & kAutograd)) continue;
    std::string schema = op.schema;
    schema.insert(schema.find('('), ".no_grad");
    add({schema.c_str(), op.kernel, op.traits});
  }
}

Registration::~Registration() {
  for (const TorchLibraryHandle library : {cuda_, cpu_, schemas_}) {
    aoti_torch_delete_library_object(library);
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

void Registration::add(const Op& op) {
  define(op.schema);
  const std::string schema = op.schema, name = schema.substr(0, schema.find('('));
  for (const TorchLibraryHandle library : {cpu_, op.traits & kCpuOnly ? nullptr : cuda_}) {
    if (!library) continue;
    TORCH_ERROR_CODE_CHECK(torch_library_impl(library, name.c_str(), op.kernel, TORCH_ABI_VERSION));
  }
}

}  // namespace qcore::binding
