# SPDX-License-Identifier: Apache-2.0
# One library per folder, one test program per test file. A folder is its library: every .cc in it
# belongs to it, so adding a kernel, an adapter or a family needs no CMake edit.

# rankwise_library(NAME FOLDERS folder... DEPENDS target...): all .cc and .h directly in the folders.
function(rankwise_library name)
  cmake_parse_arguments(ARG "" "" "FOLDERS;DEPENDS" ${ARGN})
  set(sources)
  set(headers)
  foreach(folder ${ARG_FOLDERS})
    file(GLOB found CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/${folder}/*.cc)
    list(APPEND sources ${found})
    if(RANKWISE_HAS_CUDA)
      file(GLOB found CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/${folder}/*.cu)
      list(APPEND sources ${found})
    endif()
    file(GLOB found CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/${folder}/*.h)
    list(APPEND headers ${found})
  endforeach()
  list(REMOVE_ITEM sources ${PROJECT_SOURCE_DIR}/launch/main.cc)
  add_library(${name} STATIC ${sources})
  target_sources(${name} PUBLIC FILE_SET HEADERS BASE_DIRS ${PROJECT_SOURCE_DIR} FILES ${headers})
  set_target_properties(${name} PROPERTIES VERIFY_INTERFACE_HEADER_SETS ON)
  target_link_libraries(${name} PUBLIC rankwise_flags ${ARG_DEPENDS})
endfunction()

# Environment of every test. Open MPI leaks and loads plugins: without full unwinding the leak checker
# cannot tell whose a leak is, and without the suppressions it reports those of Open MPI.
set(RANKWISE_TEST_ENVIRONMENT OMP_NUM_THREADS=1)
if(RANKWISE_SANITIZE)
  list(APPEND RANKWISE_TEST_ENVIRONMENT
    ASAN_OPTIONS=detect_leaks=1:fast_unwind_on_malloc=0:strict_string_checks=1:check_initialization_order=1
    UBSAN_OPTIONS=print_stacktrace=1
    LSAN_OPTIONS=suppressions=${PROJECT_SOURCE_DIR}/tests/support/lsan.supp:print_suppressions=0)
endif()

# rankwise_test(FILE [RANKS n...] [LABELS l...] DEPENDS target...): one program per test file. With
# RANKS the same program also runs under mpirun once per count. LABELS: fast (default), parity,
# distributed, end_to_end; gpu and gpu2 (tests/gpu.sh).
function(rankwise_test file)
  cmake_parse_arguments(ARG "" "TIMEOUT" "RANKS;LABELS;DEPENDS" ${ARGN})
  file(RELATIVE_PATH relative ${PROJECT_SOURCE_DIR}/tests ${CMAKE_CURRENT_SOURCE_DIR}/${file})
  string(REGEX REPLACE "\\.cc$" "" name ${relative})
  string(REPLACE "/" "." name ${name})
  if(NOT ARG_LABELS)
    set(ARG_LABELS fast)
  endif()
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 300)
  endif()
  add_executable(${name} ${file})
  target_link_libraries(${name} PRIVATE rankwise_test_support ${ARG_DEPENDS})
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/tests
    RANKWISE_IS_TEST ON)
  if(NOT ARG_RANKS)
    add_test(NAME ${name} COMMAND ${name} WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
    if(ARG_LABELS STREQUAL gpu)
      set_tests_properties(${name} PROPERTIES RESOURCE_LOCK gpu)  # memory and time are measured
    endif()
    set_tests_properties(${name} PROPERTIES LABELS "${ARG_LABELS}" TIMEOUT ${ARG_TIMEOUT}
      ENVIRONMENT "${RANKWISE_TEST_ENVIRONMENT};RANKWISE_BINARY=$<TARGET_FILE:rankwise>")
  endif()
  foreach(ranks ${ARG_RANKS})
    add_test(NAME ${name}.np${ranks}
      COMMAND ${MPIEXEC_EXECUTABLE} --allow-run-as-root --oversubscribe --bind-to none
              -np ${ranks} $<TARGET_FILE:${name}>
      WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
    set_tests_properties(${name}.np${ranks} PROPERTIES LABELS "${ARG_LABELS}"
      TIMEOUT ${ARG_TIMEOUT} PROCESSORS 2 ENVIRONMENT "${RANKWISE_TEST_ENVIRONMENT}")
    if(ARG_LABELS STREQUAL gpu2)
      set_tests_properties(${name}.np${ranks} PROPERTIES RESOURCE_LOCK gpu)
    endif()
  endforeach()
endfunction()

# rankwise_tests_in_folder([EXCEPT file...] [LABELS ...] DEPENDS target...): every *_test.cc here; a
# *_parity_test.cc is labelled parity unless LABELS says otherwise.
function(rankwise_tests_in_folder)
  cmake_parse_arguments(ARG "" "" "EXCEPT;LABELS;DEPENDS" ${ARGN})
  file(GLOB files CONFIGURE_DEPENDS RELATIVE ${CMAKE_CURRENT_SOURCE_DIR} *_test.cc)
  if(ARG_EXCEPT)
    list(REMOVE_ITEM files ${ARG_EXCEPT})
  endif()
  foreach(file ${files})
    set(labels ${ARG_LABELS})
    if(NOT labels AND file MATCHES "_parity_test[.]cc$")
      set(labels parity)
    endif()
    rankwise_test(${file} LABELS ${labels} DEPENDS ${ARG_DEPENDS})
  endforeach()
endfunction()
