# SPDX-License-Identifier: Apache-2.0
# Run at every build: cmake -DSOURCE=dir -DOUTPUT=file -P git_commit.cmake. Writes OUTPUT only when the
# commit changed, so that a build without a new commit compiles nothing.
cmake_minimum_required(VERSION 3.25)

set(commit unknown)
find_program(GIT git)
if(GIT AND EXISTS ${SOURCE}/.git)
  execute_process(COMMAND ${GIT} --no-optional-locks describe --always --dirty --abbrev=12 --exclude=*
    WORKING_DIRECTORY ${SOURCE} OUTPUT_VARIABLE described RESULT_VARIABLE failed
    OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  if(NOT failed)
    set(commit ${described})
  endif()
endif()
file(CONFIGURE OUTPUT ${OUTPUT} CONTENT "#define RANKWISE_GIT_COMMIT \"@commit@\"\n" @ONLY)
