# `cmake --install` gives the headers, the core, static or shared, a package for find_package(qcore) and one for
# pkg-config.
# The wheel takes only the component `python`.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)
set(qcore_package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/qcore)

set_target_properties(qcore_core PROPERTIES EXPORT_NAME core)
install(TARGETS qcore_core EXPORT qcore ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT core
        LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT core NAMELINK_COMPONENT core
        INCLUDES DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(DIRECTORY cpp/include/qcore DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} COMPONENT core)
install(EXPORT qcore NAMESPACE qcore:: FILE qcoreTargets.cmake DESTINATION ${qcore_package_dir}
        COMPONENT core)
configure_package_config_file(cmake/qcoreConfig.cmake.in "${PROJECT_BINARY_DIR}/qcoreConfig.cmake"
                              INSTALL_DESTINATION ${qcore_package_dir})
write_basic_package_version_file("${PROJECT_BINARY_DIR}/qcoreConfigVersion.cmake"
                                 COMPATIBILITY SameMinorVersion)
install(FILES "${PROJECT_BINARY_DIR}/qcoreConfig.cmake" "${PROJECT_BINARY_DIR}/qcoreConfigVersion.cmake"
        DESTINATION ${qcore_package_dir} COMPONENT core)

# What the linker needs besides, which a shared core brings itself.
if(QCORE_SHARED)
  set(qcore_pc_name qcore)
  set(qcore_pc_cflags "-DQCORE_SHARED")
  set(qcore_pc_libs "")
else()
  set(qcore_pc_name qcore_core)
  set(qcore_pc_cflags "")
  set(qcore_pc_libs "-lstdc++ -lm")
  if(QCORE_HAVE_CUDA)
    set(qcore_pc_libs "${CUDA_cudart_static_LIBRARY} -lrt -ldl -lpthread ${qcore_pc_libs}")
  endif()
endif()
configure_file(cmake/qcore.pc.in "${PROJECT_BINARY_DIR}/qcore.pc" @ONLY)
install(FILES "${PROJECT_BINARY_DIR}/qcore.pc" DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig COMPONENT core)
