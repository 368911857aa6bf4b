# libmask2edge_tensorrt.so: the CUDA kernels, the TensorRT plugins over them, and the runtime's C functions.
#
#   cmake -S . -B build/tensorrt -DMASK2EDGE_TENSORRT=ON && cmake --build build/tensorrt --target mask2edge_tensorrt -j2
#
# AUTO (the default) builds it where an NVIDIA device, nvcc and TensorRT's headers are here: without a device nobody on
# this machine could use it, and for all architectures it takes minutes. ON fails where something is missing. The CUDA
# runtime is linked statically and libnvinfer not at all: the library loads into whichever TensorRT is there.
include("${CMAKE_CURRENT_LIST_DIR}/headers.cmake")
include("${CMAKE_CURRENT_LIST_DIR}/architectures.cmake")

set(plugin_sources  # know TensorRT and no kernel
  ${plugins}/masked_attention/plugin.cpp
  ${plugins}/masked_attention/shape.cpp
  ${plugins}/multiscale_deformable_attention/plugin.cpp
  ${plugins}/multiscale_deformable_attention/shape.cpp
  ${plugins}/tensorrt/creator.cpp
  ${plugins}/tensorrt/log.cpp
  ${plugins}/tensorrt/op.cpp
  ${plugins}/tensorrt/plugin.cpp
  ${plugins}/tensorrt/register.cpp
  ${plugins}/tensorrt/register_on_load.cpp)
set(device_sources  # know CUDA and no TensorRT
  ${plugins}/masked_attention/launch.cu
  ${plugins}/multiscale_deformable_attention/launch.cu
  ${plugins}/preprocess/c_api.cpp
  ${plugins}/preprocess/launch.cu
  ${plugins}/preprocess/shape.cpp
  ${plugins}/segment_fusion/c_api.cpp
  ${plugins}/segment_fusion/launch.cu
  ${plugins}/segment_fusion/shape.cpp
  ${plugins}/tensorrt/kernel_calls.cpp)

# ---- What is here ---------------------------------------------------------------------------------------------------
set(tensorrt_obstacle "")
find_nvidia_device(nvidia_device)
if(MASK2EDGE_TENSORRT STREQUAL "OFF")
  set(tensorrt_obstacle "MASK2EDGE_TENSORRT=OFF")
elseif(MASK2EDGE_TENSORRT STREQUAL "AUTO" AND NOT nvidia_device)
  set(tensorrt_obstacle "no NVIDIA device here (MASK2EDGE_TENSORRT=ON builds them all the same)")
endif()
if(NOT tensorrt_obstacle)
  set(nvcc "${CMAKE_CUDA_COMPILER}")
  if(NOT nvcc)
    set(nvcc "$ENV{CUDACXX}")
  endif()
  if(NOT nvcc)  # JetPack and CUDA's own installer leave it out of PATH
    unset(nvcc)
    find_program(nvcc nvcc PATHS /usr/local/cuda/bin /usr/lib/cuda/bin NO_CACHE)
  endif()
  if(NOT nvcc)
    set(tensorrt_obstacle "no nvcc: install the CUDA toolkit, or set CMAKE_CUDA_COMPILER")
  endif()
endif()
if(NOT tensorrt_obstacle)
  find_tensorrt_headers(tensorrt_headers tensorrt_version how)
  if(NOT tensorrt_headers)
    set(tensorrt_obstacle "${how}")
  endif()
endif()
if(NOT tensorrt_obstacle)
  choose_cuda_architectures("${nvcc}" "${nvidia_device}" CMAKE_CUDA_ARCHITECTURES cuda_options cuda_in_words)
  set(ENV{CUDACXX} "${nvcc}")
  check_language(CUDA)
  if(NOT CMAKE_CUDA_COMPILER)
    set(tensorrt_obstacle "nvcc cannot compile a first program here (is the host compiler one that it takes?)")
  endif()
endif()

if(tensorrt_obstacle)
  if(MASK2EDGE_TENSORRT STREQUAL "ON")
    message(FATAL_ERROR "mask2edge: MASK2EDGE_TENSORRT=ON, but ${tensorrt_obstacle}")
  endif()
  message(STATUS "mask2edge: TensorRT plugins left out: ${tensorrt_obstacle}")
  return()  # leaves this file
endif()

# ---- The library ----------------------------------------------------------------------------------------------------
enable_language(CUDA)
string(CONCAT found
  "CUDA ${CMAKE_CUDA_COMPILER_VERSION}, ${cuda_in_words}; headers of TensorRT ${tensorrt_version} from ${how}")
message(STATUS "mask2edge: TensorRT plugins (${found})")

add_library(mask2edge_plugins OBJECT ${plugin_sources})
target_include_directories(mask2edge_plugins PRIVATE "${plugins}")
target_include_directories(mask2edge_plugins SYSTEM PRIVATE
  "${tensorrt_headers}" ${CMAKE_CUDA_TOOLKIT_INCLUDE_DIRECTORIES})
target_compile_options(mask2edge_plugins PRIVATE -Wall -Wextra)

# What the library shows: TensorRT's two functions, and the runtime's. The CUDA runtime inside stays inside.
set(exports "${CMAKE_CURRENT_BINARY_DIR}/mask2edge_tensorrt.map")
file(CONFIGURE OUTPUT "${exports}" @ONLY
  CONTENT "{ global: getCreators; setLoggerFinder; mask2edge_*; local: *; };\n")

add_library(mask2edge_tensorrt MODULE ${device_sources})
set_target_properties(mask2edge_tensorrt PROPERTIES
  CUDA_STANDARD 17
  CUDA_STANDARD_REQUIRED ON
  CUDA_VISIBILITY_PRESET hidden
  CUDA_RUNTIME_LIBRARY Static
  LINK_DEPENDS "${exports}")
target_link_libraries(mask2edge_tensorrt PRIVATE mask2edge_plugins ${CMAKE_DL_LIBS})
target_include_directories(mask2edge_tensorrt PRIVATE "${plugins}")
target_include_directories(mask2edge_tensorrt SYSTEM PRIVATE ${CMAKE_CUDA_TOOLKIT_INCLUDE_DIRECTORIES})
target_compile_options(mask2edge_tensorrt PRIVATE
  $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra>
  $<$<COMPILE_LANGUAGE:CUDA>:${cuda_options} -Xcompiler=-Wall,-Wextra -Xfatbin=-compress-all>)
# -z defs: a symbol of libnvinfer that crept in fails here, not on a user's machine.
target_link_options(mask2edge_tensorrt PRIVATE "LINKER:-z,defs" "LINKER:--version-script=${exports}")
install(TARGETS mask2edge_tensorrt LIBRARY DESTINATION mask2edge/trt_plugins)
