# Compile options shared by every target, carried by the interface library sluice_options.
enable_testing()
find_package(Threads REQUIRED)

add_library(sluice_options INTERFACE)
set(sluice_cxx_options
  -Wall -Wextra -Wpedantic -Wshadow -Wnon-virtual-dtor -Woverloaded-virtual -Wno-missing-field-initializers
  # Paths in messages start at the repository's root, whoever builds.
  -ffile-prefix-map=${CMAKE_SOURCE_DIR}/=
  # a*b+c is fused only where a kernel says so: the order and rounding of sums is part of the contract.
  -ffp-contract=off)
target_compile_options(sluice_options INTERFACE $<$<NOT:$<COMPILE_LANGUAGE:CUDA>>:${sluice_cxx_options}>)
if(CMAKE_CXX_COMPILER_ID STREQUAL GNU AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
  # Warns of std::string's own operator+ (GCC bug 105651).
  target_compile_options(sluice_options INTERFACE $<$<NOT:$<COMPILE_LANGUAGE:CUDA>>:-Wno-restrict>)
endif()
target_link_libraries(sluice_options INTERFACE Threads::Threads)

if(SLUICE_SANITIZE)
  target_compile_options(sluice_options INTERFACE -fsanitize=${SLUICE_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all)
  target_link_options(sluice_options INTERFACE -fsanitize=${SLUICE_SANITIZE})
endif()

if(SLUICE_FUZZ)
  target_compile_options(sluice_options INTERFACE -fsanitize=fuzzer-no-link)
  target_link_options(sluice_options INTERFACE -fsanitize=fuzzer-no-link)
endif()

find_program(SLUICE_CCACHE ccache)
if(SLUICE_CCACHE)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${SLUICE_CCACHE})
endif()
