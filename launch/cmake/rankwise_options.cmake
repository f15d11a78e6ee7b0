# SPDX-License-Identifier: Apache-2.0
# Language level, warnings, optimisation and sanitizer flags of every target.

set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)

if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "Debug, Release, RelWithDebInfo" FORCE)
endif()

find_program(RANKWISE_CCACHE ccache)
if(RANKWISE_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${RANKWISE_CCACHE})
  set(CMAKE_CUDA_COMPILER_LAUNCHER ${RANKWISE_CCACHE})
endif()

add_library(rankwise_flags INTERFACE)
target_compile_options(rankwise_flags INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wno-sign-conversion -Werror=return-type>)
target_include_directories(rankwise_flags INTERFACE ${PROJECT_SOURCE_DIR})
if(RANKWISE_FAILPOINTS)
  target_compile_definitions(rankwise_flags INTERFACE RANKWISE_FAILPOINTS=1)
endif()
if(RANKWISE_SANITIZE)
  # -O1: sanitized kernels at -O0 are too slow for the whole suite; -g1: line numbers, small objects.
  set(CMAKE_CXX_FLAGS_DEBUG "-O1 -g1")
  set(undefined -fsanitize=undefined -fno-sanitize-recover=undefined)
  # Test programs themselves do without the second one, which doubles the time to compile them.
  target_compile_options(rankwise_flags INTERFACE
    $<$<COMPILE_LANGUAGE:CXX>:-fsanitize=address;-fno-omit-frame-pointer>
    $<$<AND:$<COMPILE_LANGUAGE:CXX>,$<NOT:$<BOOL:$<TARGET_PROPERTY:RANKWISE_IS_TEST>>>>:${undefined}>)
  target_link_options(rankwise_flags INTERFACE -fsanitize=address ${undefined})
  target_compile_definitions(rankwise_flags INTERFACE RANKWISE_SANITIZE=1)
endif()
