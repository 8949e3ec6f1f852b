# Proves that an outside project can use the installed core: install, then configure, build and run
# tests/consumer against it.
include(GNUInstallDirs)
set(consumer_dir "${PROJECT_BINARY_DIR}/consumer")
add_test(NAME consumer.install
         COMMAND "${CMAKE_COMMAND}" --install "${PROJECT_BINARY_DIR}" --component core
                 --prefix "${consumer_dir}/prefix")
add_test(NAME consumer.find_package
         COMMAND "${CMAKE_CTEST_COMMAND}" --build-and-test
                 "${PROJECT_SOURCE_DIR}/tests/consumer" "${consumer_dir}/build"
                 --build-generator "${CMAKE_GENERATOR}"
                 --build-options "-DCMAKE_PREFIX_PATH=${consumer_dir}/prefix"
                                 "-DCMAKE_CXX_COMPILER=${CMAKE_CXX_COMPILER}"
                                 "-DCMAKE_CXX_FLAGS=${CMAKE_CXX_FLAGS}"
                                 "-DCMAKE_BUILD_TYPE=${CMAKE_BUILD_TYPE}"
                 --test-command consumer)
# The same with pkg-config and the compiler alone.
find_program(PKG_CONFIG pkg-config)
if(PKG_CONFIG)
  add_test(NAME consumer.pkg_config
           COMMAND sh "${PROJECT_SOURCE_DIR}/tests/consumer/pkg_config.sh" "${PKG_CONFIG}" "${CMAKE_CXX_COMPILER}"
                   "${consumer_dir}/prefix/${CMAKE_INSTALL_LIBDIR}" "${consumer_dir}/by_pkg_config")
  set_tests_properties(consumer.pkg_config PROPERTIES FIXTURES_REQUIRED consumer_prefix ENVIRONMENT
                                                      "CXXFLAGS=${CMAKE_CXX_FLAGS}")
endif()
set_tests_properties(consumer.install PROPERTIES FIXTURES_SETUP consumer_prefix)
set_tests_properties(consumer.find_package PROPERTIES FIXTURES_REQUIRED consumer_prefix)
