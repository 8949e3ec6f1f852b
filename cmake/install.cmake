# `cmake --install` gives the headers, the static core and a package for find_package(qcore).
# The wheel takes only the component `python`.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)
set(qcore_package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/qcore)

set_target_properties(qcore_core PROPERTIES EXPORT_NAME core)
install(TARGETS qcore_core EXPORT qcore ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT core
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
