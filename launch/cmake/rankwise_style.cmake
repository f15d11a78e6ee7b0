# SPDX-License-Identifier: Apache-2.0
# Targets of the code style: format (rewrites), format-check (fails on a difference), tidy.

find_program(RANKWISE_CLANG_FORMAT NAMES clang-format clang-format-18 clang-format-14)
find_program(RANKWISE_RUN_CLANG_TIDY NAMES run-clang-tidy run-clang-tidy-18 run-clang-tidy-14)

set(style_files)
foreach(folder runtime kernels parallel model optim launch tests)
  foreach(extension h cc cu cuh)
    file(GLOB_RECURSE found CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/${folder}/*.${extension})
    list(APPEND style_files ${found})
  endforeach()
endforeach()

if(RANKWISE_CLANG_FORMAT)
  add_custom_target(format COMMAND ${RANKWISE_CLANG_FORMAT} -i ${style_files} VERBATIM)
  add_custom_target(format-check
    COMMAND ${RANKWISE_CLANG_FORMAT} --dry-run --Werror ${style_files} VERBATIM)
endif()
if(RANKWISE_RUN_CLANG_TIDY)
  # The checks stand in .clang-tidy; the compile commands come from this build folder.
  add_custom_target(tidy
    COMMAND ${RANKWISE_RUN_CLANG_TIDY} -quiet -p ${PROJECT_BINARY_DIR}
            "${PROJECT_SOURCE_DIR}/(runtime|kernels|parallel|model|optim|launch)/.*[.]cc$"
    VERBATIM)
endif()
