# SPDX-License-Identifier: Apache-2.0
# Finds the libraries rankwise stands on and says which optional ones are missing and what is lost.

find_package(PkgConfig REQUIRED)
find_package(Threads REQUIRED)
if(NOT RANKWISE_FUZZ)  # clang has it in a package of its own
  find_package(OpenMP REQUIRED COMPONENTS CXX)
endif()
set(MPI_CXX_SKIP_MPICXX TRUE)  # the C interface only
find_package(MPI REQUIRED COMPONENTS CXX)
find_package(fmt REQUIRED)
find_package(nlohmann_json REQUIRED)
find_package(CLI11 REQUIRED)
find_package(yaml-cpp REQUIRED)
find_package(OpenSSL REQUIRED COMPONENTS Crypto)

# HDF5: the serial C library. The parallel flavour is not used: every rank owns its own file.
pkg_search_module(hdf5 REQUIRED IMPORTED_TARGET hdf5-serial hdf5)
add_library(rankwise_hdf5 ALIAS PkgConfig::hdf5)

pkg_check_modules(sentencepiece REQUIRED IMPORTED_TARGET sentencepiece)
# sentencepiece's pkg-config file carries -std and -O flags of its own build.
set_target_properties(PkgConfig::sentencepiece PROPERTIES INTERFACE_COMPILE_OPTIONS "")

# oneDNN is the preferred CPU GEMM, OpenBLAS the fallback. OpenBLAS is required either way: it carries
# LAPACK, which is called without headers of its own.
# (Debian's CMake package of it asks for OpenCL; header and library are all that is needed.)
find_path(ONEDNN_INCLUDE_DIR oneapi/dnnl/dnnl.hpp)
find_library(ONEDNN_LIBRARY dnnl)
if(ONEDNN_INCLUDE_DIR AND ONEDNN_LIBRARY)
  message(STATUS "rankwise: CPU GEMM by oneDNN (${ONEDNN_LIBRARY})")
  set(RANKWISE_HAS_ONEDNN 1)
  add_library(rankwise_onednn INTERFACE)
  target_include_directories(rankwise_onednn SYSTEM INTERFACE ${ONEDNN_INCLUDE_DIR})
  target_link_libraries(rankwise_onednn INTERFACE ${ONEDNN_LIBRARY})
else()
  message(STATUS "rankwise: oneDNN not found (libdnnl-dev): CPU GEMM by OpenBLAS, slower on adapter shapes")
  set(RANKWISE_HAS_ONEDNN 0)
endif()
pkg_check_modules(openblas REQUIRED IMPORTED_TARGET openblas)

# CUDA: optional. Without it the build works and every result comes from the CPU backend.
set(RANKWISE_HAS_CUDA 0)
if(NOT RANKWISE_CUDA STREQUAL OFF)
  include(CheckLanguage)
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
      set(CMAKE_CUDA_ARCHITECTURES 80 89 90a)
    endif()
    enable_language(CUDA)
    # CMake 3.25 has no name for the C++20 mode of an nvcc newer than itself.
    foreach(dialect STANDARD EXTENSION)
      if(NOT CMAKE_CUDA20_${dialect}_COMPILE_OPTION)
        set(CMAKE_CUDA20_${dialect}_COMPILE_OPTION -std=c++20)
      endif()
    endforeach()
    set(CMAKE_CUDA_STANDARD 20)
    find_package(CUDAToolkit REQUIRED)
    set(RANKWISE_HAS_CUDA 1)
    # fmt leaves constexpr out under nvcc, and then its checks of format strings do not compile.
    target_compile_definitions(rankwise_flags INTERFACE $<$<COMPILE_LANGUAGE:CUDA>:FMT_USE_CONSTEXPR=1>)
    message(STATUS "rankwise: CUDA ${CUDAToolkit_VERSION}, architectures ${CMAKE_CUDA_ARCHITECTURES}")
  elseif(RANKWISE_CUDA STREQUAL ON)
    message(FATAL_ERROR "rankwise: RANKWISE_CUDA=ON but no CUDA compiler (nvcc) was found")
  endif()
endif()
target_compile_definitions(rankwise_flags INTERFACE RANKWISE_HAS_CUDA=${RANKWISE_HAS_CUDA})
if(NOT RANKWISE_HAS_CUDA)
  message(STATUS "rankwise: no CUDA backend (RANKWISE_CUDA=${RANKWISE_CUDA}): CPU only")
endif()

# NCCL: optional; several ranks on GPUs need it.
set(RANKWISE_HAS_NCCL 0)
if(RANKWISE_HAS_CUDA)
  find_path(NCCL_INCLUDE_DIR nccl.h HINTS ${CUDAToolkit_INCLUDE_DIRS})
  find_library(NCCL_LIBRARY NAMES nccl libnccl.so.2 HINTS ${CUDAToolkit_LIBRARY_DIR})
  if(NCCL_INCLUDE_DIR AND NCCL_LIBRARY)
    message(STATUS "rankwise: collectives of GPUs by NCCL (${NCCL_LIBRARY})")
    set(RANKWISE_HAS_NCCL 1)
    add_library(rankwise_nccl INTERFACE)
    target_include_directories(rankwise_nccl SYSTEM INTERFACE ${NCCL_INCLUDE_DIR} ${CUDAToolkit_INCLUDE_DIRS})
    target_link_libraries(rankwise_nccl INTERFACE ${NCCL_LIBRARY})
  else()
    message(STATUS "rankwise: NCCL not found (NCCL_INCLUDE_DIR, NCCL_LIBRARY): one GPU per run")
  endif()
endif()

# cuDNN and its header-only C++ frontend: optional. Only headers are needed to build; the library is
# loaded when the program runs.
set(RANKWISE_HAS_CUDNN 0)
if(RANKWISE_HAS_CUDA)
  find_path(CUDNN_INCLUDE_DIR cudnn.h HINTS ${CUDAToolkit_INCLUDE_DIRS})
  find_path(CUDNN_FRONTEND_INCLUDE_DIR cudnn_frontend.h)
  if(CUDNN_INCLUDE_DIR AND CUDNN_FRONTEND_INCLUDE_DIR)
    message(STATUS "rankwise: attention by cuDNN (${CUDNN_FRONTEND_INCLUDE_DIR})")
    set(RANKWISE_HAS_CUDNN 1)
    add_library(rankwise_cudnn INTERFACE)
    target_include_directories(rankwise_cudnn SYSTEM INTERFACE
      ${CUDNN_FRONTEND_INCLUDE_DIR} ${CUDNN_INCLUDE_DIR})
    target_compile_definitions(rankwise_cudnn INTERFACE
      NV_CUDNN_FRONTEND_USE_DYNAMIC_LOADING CUDNN_FRONTEND_SKIP_JSON_LIB)
    target_link_libraries(rankwise_cudnn INTERFACE ${CMAKE_DL_LIBS})
  else()
    message(STATUS "rankwise: cuDNN or its frontend not found (CUDNN_INCLUDE_DIR, CUDNN_FRONTEND_INCLUDE_DIR): "
      "attention by the project's own kernels, slower")
  endif()
endif()

if(RANKWISE_TESTS)
  find_package(GTest REQUIRED)
endif()
if(RANKWISE_BENCH)
  find_package(benchmark REQUIRED)
endif()
