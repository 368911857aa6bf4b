# The TensorRT plugins without TensorRT: a program that loads the built library and calls it as TensorRT would; and the
# same plugin objects over kernels that tests/native/simt executes, so that enqueue() has a result that can be checked.
#
#   cmake -S . -B build/plugins -DMASK2EDGE_TENSORRT=ON -DMASK2EDGE_BUILD_TESTS=ON -DCMAKE_CUDA_ARCHITECTURES=87
#   cmake --build build/plugins --target plugin_tests && ctest --test-dir build/plugins -R plugins --output-on-failure
#
# Only where the library itself is built (nvcc and TensorRT's headers are here). No GPU is needed.
if(NOT TARGET mask2edge_tensorrt)
  return()
endif()
set(native "${CMAKE_CURRENT_LIST_DIR}")

# The kernels once more, by the C++ compiler: one file for each, because a .cu file here is CUDA's.
set(executed_kernels "")
foreach(op masked_attention multiscale_deformable_attention)
  set(file "${CMAKE_CURRENT_BINARY_DIR}/executed_kernels/${op}.cpp")
  file(CONFIGURE OUTPUT "${file}" CONTENT "#include \"${op}/launch.cu\"\n" @ONLY)
  list(APPEND executed_kernels "${file}")
endforeach()
add_library(executed_kernels OBJECT ${executed_kernels})
target_link_libraries(executed_kernels PRIVATE simt_options)

# Of the CUDA runtime only the texts of errors are used: the shim has no such functions.
find_package(CUDAToolkit REQUIRED)
add_library(mask2edge_plugins_executed MODULE)
target_link_libraries(mask2edge_plugins_executed PRIVATE
  mask2edge_plugins executed_kernels simt_engine CUDA::cudart_static)
target_link_options(mask2edge_plugins_executed PRIVATE "LINKER:-z,defs")
set_target_properties(mask2edge_plugins_executed PROPERTIES LINKER_LANGUAGE CXX)

add_executable(plugin_tests
  "${native}/plugin_tests.cpp"
  "${native}/plugin_call_tests.cpp"
  "${native}/plugin_execution_tests.cpp"
  ${plugins}/common/instruction_set.cpp  # the CPU kernels are the reference
  ${plugins}/masked_attention/cpu.cpp
  ${plugins}/masked_attention/cpu_tile.cpp
  ${plugins}/masked_attention/shape.cpp
  ${plugins}/multiscale_deformable_attention/cpu.cpp
  ${plugins}/multiscale_deformable_attention/cpu_tile.cpp
  ${plugins}/multiscale_deformable_attention/shape.cpp)
configure_tiles(plugin_tests portable)
target_include_directories(plugin_tests PRIVATE "${native}")
target_include_directories(plugin_tests SYSTEM PRIVATE
  "${tensorrt_headers}" ${CMAKE_CUDA_TOOLKIT_INCLUDE_DIRECTORIES})
target_link_libraries(plugin_tests PRIVATE ${CMAKE_DL_LIBS})
add_dependencies(plugin_tests mask2edge_tensorrt mask2edge_plugins_executed)

add_test(NAME plugins COMMAND plugin_tests
  $<TARGET_FILE:mask2edge_tensorrt> $<TARGET_FILE:mask2edge_plugins_executed>)
