# Configures this project with every kind of answer to QCORE_CUDA; nothing is built.
# qcore_configure_test(name value cudacxx pass fail option...): the output must match `pass` and must not match `fail`.
# CMake breaks the lines of its errors, hence \n or a blank between their words.
set(configure_dir "${PROJECT_BINARY_DIR}/configure")
function(qcore_configure_test name value cudacxx pass fail)
  add_test(NAME configure.${name}
           COMMAND "${CMAKE_COMMAND}" --fresh -S "${PROJECT_SOURCE_DIR}" -B "${configure_dir}/${name}"
                   -G "${CMAKE_GENERATOR}" "-DCMAKE_CXX_COMPILER=${CMAKE_CXX_COMPILER}"
                   "-DQCORE_CUDA=${value}" ${ARGN})
  string(REPLACE " " "[ \n]+" pass "${pass}")
  set_tests_properties(configure.${name} PROPERTIES TIMEOUT 60 ENVIRONMENT "CUDACXX=${cudacxx}"
                       PASS_REGULAR_EXPRESSION "${pass}" FAIL_REGULAR_EXPRESSION "${fail}")
endfunction()

# Compilers that only answer --version; whoever asks for more gets an error.
foreach(version 12.4 13.0)
  file(WRITE "${configure_dir}/nvcc-${version}" "#!/bin/sh\n[ \"$1\" = --version ] || exit 1\n"
       "echo 'Cuda compilation tools, release ${version}, V${version}.99'\n")
  file(CHMOD "${configure_dir}/nvcc-${version}"
       PERMISSIONS OWNER_READ OWNER_WRITE OWNER_EXECUTE GROUP_READ GROUP_EXECUTE WORLD_READ WORLD_EXECUTE)
endforeach()

set(done "Build files have been written")
set(old "${configure_dir}/nvcc-12.4")
set(broken "${configure_dir}/nvcc-13.0")
set(absent "${configure_dir}/nvcc-absent")
qcore_configure_test(cuda_off OFF "${broken}" "CUDA OFF,.*${done}" "CMake Error")
qcore_configure_test(cuda_auto_old AUTO "${old}" "left out: nvcc 12.4 is older.*CUDA OFF,.*${done}" "CMake Error")
qcore_configure_test(cuda_auto_broken AUTO "${broken}" "left out: nvcc cannot compile.*CUDA OFF,.*${done}" "CMake Error")
qcore_configure_test(cuda_auto_absent AUTO "${absent}" "left out: .*CUDA OFF,.*${done}" "CMake Error")
qcore_configure_test(cuda_on_old ON "${old}" "QCORE_CUDA=ON, but nvcc 12.4 is older than" "${done}")
qcore_configure_test(cuda_on_broken ON "${broken}" "QCORE_CUDA=ON, but nvcc cannot compile" "${done}")
qcore_configure_test(shared OFF "" "${done}" "CMake Error" -DQCORE_SHARED=ON)
qcore_configure_test(shared_tests OFF "" "link the static core" "${done}" -DQCORE_SHARED=ON -DQCORE_BUILD_TESTS=ON)
qcore_configure_test(cuda_maybe MAYBE "" "QCORE_CUDA must be AUTO, ON or OFF, got 'MAYBE'" "${done}")
