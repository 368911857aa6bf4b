# Where are TensorRT's headers?
#
#   include(trt_plugins/tensorrt/headers.cmake)
#   find_tensorrt_headers(directory version how)
#   # directory holds NvInferRuntime.h, or is empty; version: 10.3; how: where from, or why not
#
# In this order: TENSORRT_INCLUDE_DIR (CMake variable, then environment), the system (JetPack and apt, the tar archive
# in its usual places), what an earlier configuration fetched, the wheel that carries NVIDIA's headers
# (fetch_headers.sh; MASK2EDGE_FETCH_HEADERS=OFF fetches nothing). Plugins need nothing of TensorRT but the headers, and
# the interfaces in them are versioned: a library built with those of 10.14 was seen to register in 11.4.

set(_tensorrt_header_script "${CMAKE_CURRENT_LIST_DIR}/fetch_headers.sh")

# The folder under any of the roots that holds NvInferRuntime.h, or an empty string.
function(_tensorrt_header_folder result)
  find_path(found NvInferRuntime.h
    PATHS ${ARGN}
    PATH_SUFFIXES include include/x86_64-linux-gnu include/aarch64-linux-gnu
    NO_DEFAULT_PATH NO_CACHE)
  if(found)
    set(${result} "${found}" PARENT_SCOPE)
  else()
    set(${result} "" PARENT_SCOPE)
  endif()
endfunction()

# 10.3 from NvInferVersion.h, whose macros have been called by two names; empty where it says neither.
function(_tensorrt_header_version folder result)
  set(${result} "" PARENT_SCOPE)
  if(EXISTS "${folder}/NvInferVersion.h")
    file(READ "${folder}/NvInferVersion.h" text)
    set(numbers "")
    foreach(part MAJOR MINOR)
      if(text MATCHES "#define (NV_TENSORRT_${part}|TRT_${part}_ENTERPRISE) +([0-9]+)")
        list(APPEND numbers "${CMAKE_MATCH_2}")
      endif()
    endforeach()
    list(JOIN numbers "." version)
    set(${result} "${version}" PARENT_SCOPE)
  endif()
endfunction()

function(find_tensorrt_headers directory version how)
  set(explicit "${TENSORRT_INCLUDE_DIR}")
  if(NOT explicit)
    set(explicit "$ENV{TENSORRT_INCLUDE_DIR}")
  endif()
  set(fetched "${CMAKE_BINARY_DIR}/tensorrt-headers")

  if(explicit)
    _tensorrt_header_folder(folder "${explicit}")
    set(origin "TENSORRT_INCLUDE_DIR")
    if(NOT folder)
      set(origin "no NvInferRuntime.h under TENSORRT_INCLUDE_DIR = ${explicit}")
    endif()
  else()
    _tensorrt_header_folder(folder /usr /usr/local /usr/local/tensorrt /usr/local/TensorRT /opt/tensorrt)
    set(origin "the system")
    if(NOT folder)
      _tensorrt_header_folder(folder "${fetched}")
      set(origin "the wheel kernel-lens")
    endif()
    if(NOT folder AND MASK2EDGE_FETCH_HEADERS)
      execute_process(COMMAND sh "${_tensorrt_header_script}" "${fetched}" OUTPUT_QUIET ERROR_QUIET TIMEOUT 120)
      _tensorrt_header_folder(folder "${fetched}")
    endif()
    if(NOT folder)
      set(origin "no TensorRT headers here or from a package registry: set TENSORRT_INCLUDE_DIR")
    endif()
  endif()

  set(number "")
  if(folder)
    _tensorrt_header_version("${folder}" number)
    if(NOT number OR number VERSION_LESS 10.0)
      set(origin "expected TensorRT 10 or newer, got headers of '${number}' in ${folder}: set TENSORRT_INCLUDE_DIR")
      set(folder "")
    endif()
  endif()
  set(${directory} "${folder}" PARENT_SCOPE)
  set(${version} "${number}" PARENT_SCOPE)
  set(${how} "${origin}" PARENT_SCOPE)
endfunction()
