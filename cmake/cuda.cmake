# SLUICE_CUDA: AUTO builds the CUDA backend where nvcc and a driver are, ON where nvcc is, OFF never.
# Kernels are compiled ahead for each architecture, and once as PTX for cards newer than all of them.
set(SLUICE_CUDA AUTO CACHE STRING "Build the CUDA backend: AUTO, ON or OFF")
set_property(CACHE SLUICE_CUDA PROPERTY STRINGS AUTO ON OFF)
set(SLUICE_CUDA_ARCHITECTURES 80-real 86-real 89-real 90a-real 80-virtual CACHE STRING
  "Architectures to compile kernels for, as in CMAKE_CUDA_ARCHITECTURES")

set(SLUICE_CUDA_BUILT OFF)
if(NOT SLUICE_CUDA STREQUAL OFF)
  find_program(SLUICE_NVCC nvcc PATHS /usr/local/cuda/bin)
  if(SLUICE_CUDA STREQUAL ON AND NOT SLUICE_NVCC)
    message(FATAL_ERROR "SLUICE_CUDA=ON needs nvcc 12.4 or newer on the PATH or in /usr/local/cuda/bin")
  endif()
  if(SLUICE_NVCC AND (SLUICE_CUDA STREQUAL ON OR EXISTS /proc/driver/nvidia/version OR EXISTS /dev/nvidiactl))
    set(SLUICE_CUDA_BUILT ON)
  endif()
endif()

if(SLUICE_CUDA_BUILT)
  set(CMAKE_CUDA_COMPILER ${SLUICE_NVCC})
  set(CMAKE_CUDA_ARCHITECTURES ${SLUICE_CUDA_ARCHITECTURES})
  if(SLUICE_CCACHE)
    set(CMAKE_CUDA_COMPILER_LAUNCHER ${SLUICE_CCACHE})
  endif()
  enable_language(CUDA)
  if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)  # CMake 3.25 does not know it of nvcc 12 and newer
    set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)
    set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION -std=c++20)
  endif()
  set(CMAKE_CUDA_STANDARD 20)
  set(CMAKE_CUDA_STANDARD_REQUIRED ON)
  set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
  find_package(CUDAToolkit REQUIRED)
  target_compile_definitions(sluice_options INTERFACE SLUICE_CUDA=1)
  # The order of sums in a kernel is what is written there; a*b+c may fuse, which every card does alike.
  target_compile_options(sluice_options INTERFACE $<$<COMPILE_LANGUAGE:CUDA>:-lineinfo>)
endif()
message(STATUS "CUDA backend: ${SLUICE_CUDA_BUILT}")
