# Kernels compiled by the C++ compiler over tests/native/simt, and the tests that execute them.
#
#   add_simt_kernels(masked_attention masked_attention/launch.cu masked_attention/shape.cpp)   # under trt_plugins
#   add_simt_test(masked_attention masked_attention_cuda_tests.cpp KERNELS masked_attention)
#
# The first makes an object library, which also becomes part of libmask2edge_simt.so: the plugin library's C functions
# on host pointers. The second makes the program simt_masked_attention and the ctest of that name. Target simt_tests
# builds all of it. -DMASK2EDGE_SANITIZE=ON: AddressSanitizer and UBSan, in the programs and not in the library.
option(MASK2EDGE_SANITIZE "Build the tests over tests/native/simt with AddressSanitizer and UBSan" OFF)

set(simt_plugins "${CMAKE_CURRENT_LIST_DIR}/../../trt_plugins")
set(simt_native "${CMAKE_CURRENT_LIST_DIR}")

add_library(simt_options INTERFACE)
target_compile_features(simt_options INTERFACE cxx_std_17)
target_include_directories(simt_options INTERFACE "${simt_plugins}" "${simt_native}" "${simt_native}/simt")
# Kernels look at the same bytes as numbers of several types, as CUDA's compiler allows.
target_compile_options(simt_options INTERFACE -Wall -Wextra -Wno-unknown-pragmas -fno-strict-aliasing -ffp-contract=off)
if(MASK2EDGE_SANITIZE)
  # Left out, for a third of the time: what AddressSanitizer sees by itself, and what is no mistake of a kernel.
  set(simt_sanitizers -fsanitize=address,undefined -fno-sanitize=null,object-size,vptr,pointer-overflow
    -fno-sanitize-recover=all -fno-omit-frame-pointer)
  target_compile_options(simt_options INTERFACE ${simt_sanitizers} -g1 -O1)
  target_compile_definitions(simt_options INTERFACE MASK2EDGE_SANITIZED)
  target_link_options(simt_options INTERFACE ${simt_sanitizers})
else()
  target_compile_options(simt_options INTERFACE -O1)
endif()

add_library(simt_engine OBJECT simt/fiber.cpp simt/scheduler.cpp)
target_link_libraries(simt_engine PUBLIC simt_options)
set_target_properties(simt_engine PROPERTIES POSITION_INDEPENDENT_CODE ON)

add_custom_target(simt_tests)
if(NOT MASK2EDGE_SANITIZE)  # a program that loads it has no sanitizer
  add_library(mask2edge_simt SHARED simt/library.cpp)
  target_link_libraries(mask2edge_simt PRIVATE simt_engine)
  add_dependencies(simt_tests mask2edge_simt)
endif()

function(add_simt_kernels name)
  list(TRANSFORM ARGN PREPEND "${simt_plugins}/" OUTPUT_VARIABLE sources)
  # In this folder a .cu file is C++ (the property does not reach the plugin library's CMakeLists.txt).
  foreach(source IN LISTS sources)
    set_source_files_properties(${source} PROPERTIES LANGUAGE CXX COMPILE_OPTIONS "-xc++")
  endforeach()
  add_library(simt_kernels_${name} OBJECT ${sources})
  target_link_libraries(simt_kernels_${name} PUBLIC simt_options)
  set_target_properties(simt_kernels_${name} PROPERTIES POSITION_INDEPENDENT_CODE ON)
  if(TARGET mask2edge_simt)
    target_link_libraries(mask2edge_simt PRIVATE simt_kernels_${name})
  endif()
endfunction()

function(add_simt_test name)
  cmake_parse_arguments(test "" "" "KERNELS" ${ARGN})
  add_executable(simt_${name} ${test_UNPARSED_ARGUMENTS})
  target_link_libraries(simt_${name} PRIVATE simt_engine)
  foreach(kernels IN LISTS test_KERNELS)
    target_link_libraries(simt_${name} PRIVATE simt_kernels_${kernels})
  endforeach()
  add_dependencies(simt_tests simt_${name})
  add_test(NAME simt_${name} COMMAND simt_${name})
endfunction()
