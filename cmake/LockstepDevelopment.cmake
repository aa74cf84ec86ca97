# Settings of lockstep's own programs (tests, examples, benchmarks, fuzzers). Nothing here reaches a user's targets:
# all of it is scoped to this project's directories.

set(CMAKE_RUNTIME_OUTPUT_DIRECTORY "${PROJECT_BINARY_DIR}/bin")
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)

# ccache, unless the user chose a launcher. Precompiled headers need its help.
find_program(LOCKSTEP_CCACHE ccache DOC "Compiler cache, or empty for none")
mark_as_advanced(LOCKSTEP_CCACHE)
if(LOCKSTEP_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  set(CMAKE_CXX_COMPILER_LAUNCHER
      "${CMAKE_COMMAND}" -E env
      "CCACHE_SLOPPINESS=pch_defines,time_macros,include_file_mtime,include_file_ctime" "${LOCKSTEP_CCACHE}")
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    add_compile_options(-fpch-preprocess)
  elseif(CMAKE_CXX_COMPILER_ID STREQUAL "Clang")
    add_compile_options("SHELL:-Xclang -fno-pch-timestamp")
  endif()
endif()

# Warnings.
add_compile_options(-Wall -Wextra -Wpedantic -Wconversion -Wshadow)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
  # False alarms from inside <string> when std::string's operator+ is inlined (gcc.gnu.org/PR105651, PR105329), fixed
  # in g++ 13. AddressSanitizer finds the true ones.
  add_compile_options(-Wno-array-bounds -Wno-restrict -Wno-stringop-overflow)
  # And about Asio's coroutine frames, when their operator new is inlined and their operator delete is not.
  add_compile_options(-Wno-mismatched-new-delete)
endif()
if(LOCKSTEP_WERROR)
  add_compile_options(-Werror)
endif()

# Asio keeps 2 freed coroutine frames a thread for the next ones; with more, steady work allocates nothing (README). Every
# unit of a program must agree on it. Not under a sanitizer, which should see frames that are used after they ended.
if(NOT LOCKSTEP_SANITIZE)
  add_compile_definitions(ASIO_RECYCLING_ALLOCATOR_CACHE_SIZE=32)
endif()

# Sanitizers.
if(LOCKSTEP_SANITIZE)
  add_compile_options("-fsanitize=${LOCKSTEP_SANITIZE}" -fno-sanitize-recover=all -fno-omit-frame-pointer)
  add_link_options("-fsanitize=${LOCKSTEP_SANITIZE}")
  if(CMAKE_CXX_COMPILER_ID STREQUAL "Clang" AND LOCKSTEP_SANITIZE MATCHES "undefined")
    # Calls through coroutine frames are not calls through the function type that this check knows.
    add_compile_options(-fno-sanitize=function)
  endif()
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND LOCKSTEP_SANITIZE MATCHES "address")
    # A false alarm from inside <regex> (gcc.gnu.org/PR105562).
    add_compile_options(-Wno-maybe-uninitialized)
  endif()
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND LOCKSTEP_SANITIZE MATCHES "thread")
    # Asio uses atomic_thread_fence, which g++ says ThreadSanitizer does not model.
    add_compile_options(-Wno-tsan)
  endif()
endif()
