# Finds xxHash and defines xxHash::xxhash and xxHash_FOUND.
#
# A package configuration is preferred (Conan and vcpkg provide one), then the header is searched (Debian ships only
# a .pc file). lockstep compiles xxHash into itself (XXH_INLINE_ALL), so that the header is all it needs.

if(NOT TARGET xxHash::xxhash)
  find_package(xxHash CONFIG QUIET)
endif()

include(FindPackageHandleStandardArgs)
if(TARGET xxHash::xxhash)
  set(xxHash_CONFIG_TARGET "xxHash::xxhash")
  find_package_handle_standard_args(xxHash REQUIRED_VARS xxHash_CONFIG_TARGET)
  return()
endif()

find_path(xxHash_INCLUDE_DIR xxhash.h DOC "Directory of xxhash.h")
mark_as_advanced(xxHash_INCLUDE_DIR)
find_package_handle_standard_args(
  xxHash REQUIRED_VARS xxHash_INCLUDE_DIR
  REASON_FAILURE_MESSAGE "install xxHash (Debian: libxxhash-dev) or set xxHash_INCLUDE_DIR")

if(xxHash_FOUND)
  add_library(xxHash::xxhash INTERFACE IMPORTED)
  target_include_directories(xxHash::xxhash INTERFACE "${xxHash_INCLUDE_DIR}")
endif()
