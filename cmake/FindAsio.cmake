# Finds standalone Asio and defines asio::asio and Asio_FOUND.
#
# A package configuration is preferred (Conan and vcpkg provide one), then the header is searched (Debian ships no
# configuration). No version is asked for, because not every source of Asio tells one: the header
# lockstep/core/asio_compat.hpp checks it at compile time.

if(NOT TARGET asio::asio)
  find_package(asio CONFIG QUIET)
endif()

include(FindPackageHandleStandardArgs)
if(TARGET asio::asio)
  set(Asio_CONFIG "asio::asio")
  find_package_handle_standard_args(Asio REQUIRED_VARS Asio_CONFIG)
  return()
endif()

find_path(Asio_INCLUDE_DIR asio.hpp DOC "Directory of asio.hpp")
mark_as_advanced(Asio_INCLUDE_DIR)
find_package_handle_standard_args(
  Asio REQUIRED_VARS Asio_INCLUDE_DIR
  REASON_FAILURE_MESSAGE "install standalone Asio (Debian: libasio-dev) or set Asio_INCLUDE_DIR")

if(Asio_FOUND)
  add_library(asio::asio INTERFACE IMPORTED)
  target_include_directories(asio::asio INTERFACE "${Asio_INCLUDE_DIR}")
  target_compile_definitions(asio::asio INTERFACE ASIO_STANDALONE)
endif()
