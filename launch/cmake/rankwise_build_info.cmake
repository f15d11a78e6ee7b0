# SPDX-License-Identifier: Apache-2.0
# rankwise_build_info(TARGET): gives launch/version.cc of TARGET the generated header build_info.h (what
# CMake knows about this build) and git_commit.h (renewed at every build).
function(rankwise_build_info target)
  set(folder ${CMAKE_CURRENT_BINARY_DIR}/generated)
  set(onednn_VERSION)
  if(RANKWISE_HAS_ONEDNN)
    file(STRINGS ${ONEDNN_INCLUDE_DIR}/oneapi/dnnl/dnnl_version.h lines REGEX "DNNL_VERSION_(MAJOR|MINOR|PATCH) ")
    string(REGEX REPLACE "[^;0-9]" "" numbers "${lines}")
    list(JOIN numbers "." onednn_VERSION)
  endif()
  configure_file(${PROJECT_SOURCE_DIR}/launch/cmake/build_info.h.in ${folder}/build_info.h @ONLY)
  add_custom_target(${target}_git_commit BYPRODUCTS ${folder}/git_commit.h
    COMMAND ${CMAKE_COMMAND} -DSOURCE=${PROJECT_SOURCE_DIR} -DOUTPUT=${folder}/git_commit.h
            -P ${PROJECT_SOURCE_DIR}/launch/cmake/git_commit.cmake VERBATIM)
  add_dependencies(${target} ${target}_git_commit)
  set_source_files_properties(${PROJECT_SOURCE_DIR}/launch/version.cc PROPERTIES INCLUDE_DIRECTORIES ${folder})
endfunction()
