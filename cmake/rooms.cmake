# sluice_room(NAME SOURCES a.cc ... [CUDA_SOURCES a_cuda.cu ...] [DEPS room-or-library ...] [TESTS a_test.cc ...]
#   [BENCHES a_bench.cc ...] [CUDA_BENCHES a_cuda_bench.cc ...])
#
# Declares the room in the current folder as the static library sluice_NAME, its unit tests as one
# executable NAME_test (run by ctest), and its benchmarks as NAME_bench. CUDA_SOURCES and CUDA_BENCHES are left
# out of a build without CUDA. A DEPS entry that names a room means that room's library; anything else is passed
# to the linker as it is.
include(GoogleTest)
if(SLUICE_BUILD_TESTS)
  find_package(GTest REQUIRED)
endif()
if(SLUICE_BUILD_BENCHMARKS)
  find_package(benchmark REQUIRED)
endif()

function(sluice_room name)
  cmake_parse_arguments(ARG "" "" "SOURCES;CUDA_SOURCES;DEPS;TESTS;BENCHES;CUDA_BENCHES" ${ARGN})
  set(libraries)
  foreach(dep IN LISTS ARG_DEPS)
    if(dep IN_LIST SLUICE_ROOMS)
      list(APPEND libraries sluice_${dep})
    else()
      list(APPEND libraries ${dep})
    endif()
  endforeach()

  if(SLUICE_CUDA_BUILT AND ARG_CUDA_SOURCES)
    list(APPEND ARG_SOURCES ${ARG_CUDA_SOURCES})
  endif()
  add_library(sluice_${name} STATIC ${ARG_SOURCES})
  target_include_directories(sluice_${name} PUBLIC ${CMAKE_SOURCE_DIR}/src)
  target_link_libraries(sluice_${name} PUBLIC sluice_options ${libraries})

  if(SLUICE_BUILD_TESTS AND ARG_TESTS)
    add_executable(${name}_test ${ARG_TESTS})
    target_link_libraries(${name}_test PRIVATE sluice_${name} GTest::gtest GTest::gmock GTest::gtest_main)
    target_compile_definitions(${name}_test PRIVATE SLUICE_SOURCE_DIR="${CMAKE_SOURCE_DIR}")
    # One ctest entry a room: starting a process for each case would cost more than the cases.
    add_test(NAME ${name} COMMAND ${name}_test)
  endif()
  if(SLUICE_CUDA_BUILT AND ARG_CUDA_BENCHES)
    list(APPEND ARG_BENCHES ${ARG_CUDA_BENCHES})
  endif()
  if(SLUICE_BUILD_BENCHMARKS AND ARG_BENCHES)
    add_executable(${name}_bench ${ARG_BENCHES})
    target_link_libraries(${name}_bench PRIVATE sluice_${name} benchmark::benchmark benchmark::benchmark_main)
  endif()
endfunction()
