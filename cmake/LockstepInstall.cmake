# Installs the headers, the CMake package and lockstep.pc. Everything refers to its own place, so that the prefix can
# be moved; nothing depends on the architecture, so that it goes to share/.

include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

set(lockstep_cmake_dir "${CMAKE_INSTALL_DATADIR}/cmake/lockstep")
set(lockstep_pc_dir "${CMAKE_INSTALL_DATADIR}/pkgconfig")

install(
  TARGETS lockstep
  EXPORT lockstepTargets
  FILE_SET HEADERS)
install(EXPORT lockstepTargets NAMESPACE lockstep:: DESTINATION "${lockstep_cmake_dir}")

configure_package_config_file(
  cmake/lockstepConfig.cmake.in "${PROJECT_BINARY_DIR}/lockstepConfig.cmake"
  INSTALL_DESTINATION "${lockstep_cmake_dir}"
  NO_SET_AND_CHECK_MACRO)
write_basic_package_version_file(
  "${PROJECT_BINARY_DIR}/lockstepConfigVersion.cmake"
  COMPATIBILITY SameMinorVersion
  ARCH_INDEPENDENT)
install(
  FILES "${PROJECT_BINARY_DIR}/lockstepConfig.cmake"
        "${PROJECT_BINARY_DIR}/lockstepConfigVersion.cmake"
        cmake/FindAsio.cmake
        cmake/FindxxHash.cmake
  DESTINATION "${lockstep_cmake_dir}")

if(IS_ABSOLUTE "${CMAKE_INSTALL_DATADIR}" OR IS_ABSOLUTE "${CMAKE_INSTALL_INCLUDEDIR}")
  set(lockstep_pc_prefix "${CMAKE_INSTALL_PREFIX}")
  set(lockstep_pc_includedir "${CMAKE_INSTALL_FULL_INCLUDEDIR}")
else()
  file(RELATIVE_PATH lockstep_pc_prefix "/${lockstep_pc_dir}" "/")
  string(REGEX REPLACE "/$" "" lockstep_pc_prefix "\${pcfiledir}/${lockstep_pc_prefix}")
  set(lockstep_pc_includedir "\${prefix}/${CMAKE_INSTALL_INCLUDEDIR}")
endif()
configure_file(cmake/lockstep.pc.in "${PROJECT_BINARY_DIR}/lockstep.pc" @ONLY)
install(FILES "${PROJECT_BINARY_DIR}/lockstep.pc" DESTINATION "${lockstep_pc_dir}")

install(FILES LICENSE DESTINATION "${CMAKE_INSTALL_DOCDIR}")
