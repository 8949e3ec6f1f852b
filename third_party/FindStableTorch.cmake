# StableTorch::torch: headers and library of the torch that the build's Python imports, for code that
# keeps to the LibTorch stable ABI. Needs Python_EXECUTABLE. torch's own CMake package is not used: it
# pulls in C++ (non-stable) libraries, CUDA and absolute paths.
execute_process(
  COMMAND "${Python_EXECUTABLE}" -c "
import importlib.metadata as metadata, importlib.util as util
spec = util.find_spec('torch')
if spec is not None:
    print(metadata.version('torch'), spec.submodule_search_locations[0], sep=';')"
  OUTPUT_VARIABLE stable_torch OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
set(StableTorch_ROOT_DIR "")
if(stable_torch)
  list(GET stable_torch 0 StableTorch_VERSION)
  list(GET stable_torch 1 StableTorch_ROOT_DIR)
endif()
find_path(StableTorch_INCLUDE_DIR torch/csrc/stable/library.h
          PATHS "${StableTorch_ROOT_DIR}/include" NO_DEFAULT_PATH NO_CACHE)
find_library(StableTorch_LIBRARY torch_cpu PATHS "${StableTorch_ROOT_DIR}/lib" NO_DEFAULT_PATH NO_CACHE)

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(StableTorch
  REQUIRED_VARS StableTorch_LIBRARY StableTorch_INCLUDE_DIR VERSION_VAR StableTorch_VERSION
  REASON_FAILURE_MESSAGE "torch is not installed for ${Python_EXECUTABLE}")

# pip builds in an environment of its own, into which it brings what it is served.
if(StableTorch_FOUND AND StableTorch_ROOT_DIR MATCHES "build-env"
   AND EXISTS "${StableTorch_ROOT_DIR}/lib/libtorch_cuda.so")
  message(NOTICE "pip downloaded a CUDA build of torch for this build alone. To spare it: `pip install torch "
                 "scikit-build-core pybind11 ninja`, then `pip install --no-build-isolation .`; or set "
                 "PIP_EXTRA_INDEX_URL to an index of torch's CPU builds.")
endif()

if(StableTorch_FOUND AND NOT TARGET StableTorch::torch)
  add_library(StableTorch::torch SHARED IMPORTED)
  set_target_properties(StableTorch::torch PROPERTIES
    IMPORTED_LOCATION "${StableTorch_LIBRARY}"
    INTERFACE_INCLUDE_DIRECTORIES "${StableTorch_INCLUDE_DIR}"  # imported, hence -isystem
    # Nothing newer than torch 2.10 may be used, whatever torch the build happens to have.
    INTERFACE_COMPILE_DEFINITIONS "TORCH_TARGET_VERSION=0x020a000000000000")
endif()
