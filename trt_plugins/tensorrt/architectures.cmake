# For which GPUs is the library built?
#
#   find_nvidia_device(found)                   # TRUE where this machine has one
#   choose_cuda_architectures(nvcc device architectures options in_words)
#
# On a device: for that device alone, which takes seconds. Elsewhere: for all that this toolkit knows of the ones below,
# the newest also as PTX, from which a driver makes code for GPUs to come.
# CMAKE_CUDA_ARCHITECTURES, or CUDAARCHS in the environment, wins.

# Turing to Blackwell, Jetson Orin (87) and Thor (110) among them.
set(mask2edge_cuda_architectures 75 80 86 87 88 89 90 100 103 110 120 121)

# By device files, because asking the driver takes a program. MASK2EDGE_DEVICE_FILES names others, for tests.
function(find_nvidia_device result)
  set(files "${MASK2EDGE_DEVICE_FILES}")
  if(NOT DEFINED MASK2EDGE_DEVICE_FILES)
    set(files /dev/nvidiactl /dev/nvhost-gpu /dev/nvgpu /usr/lib/wsl/lib/libcuda.so.1)
  endif()
  set(${result} FALSE PARENT_SCOPE)
  foreach(file IN LISTS files)
    if(EXISTS "${file}")
      set(${result} TRUE PARENT_SCOPE)
    endif()
  endforeach()
endfunction()

# architectures: for CMAKE_CUDA_ARCHITECTURES, options: compile options besides.
function(choose_cuda_architectures nvcc device architectures options in_words)
  set(${options} "" PARENT_SCOPE)
  set(asked_for "${CMAKE_CUDA_ARCHITECTURES}")
  if("${asked_for}" STREQUAL "")
    set(asked_for "$ENV{CUDAARCHS}")
  endif()
  if(NOT "${asked_for}" STREQUAL "")
    set(${architectures} "${asked_for}" PARENT_SCOPE)
    list(JOIN asked_for " " words)
    set(${in_words} "architectures ${words}, as asked for" PARENT_SCOPE)
    return()
  endif()
  if(device)
    set(${architectures} OFF PARENT_SCOPE)  # CMake knows "native" from 3.24 on; nvcc has for long
    set(${options} -arch=native PARENT_SCOPE)
    set(${in_words} "this machine's GPU alone" PARENT_SCOPE)
    return()
  endif()
  execute_process(COMMAND "${nvcc}" --list-gpu-code OUTPUT_VARIABLE listed ERROR_QUIET)
  string(REGEX MATCHALL "sm_[0-9]+[a-z]?" known "${listed}")
  set(chosen "")
  set(newest "")
  foreach(number IN LISTS mask2edge_cuda_architectures)
    if("sm_${number}" IN_LIST known)
      list(APPEND chosen "${number}-real")
      set(newest "${number}")
    endif()
  endforeach()
  string(REPLACE "-real" "" words "${chosen}")
  list(JOIN words " " words)
  if(newest)
    list(APPEND chosen "${newest}-virtual")
  endif()
  set(${architectures} "${chosen}" PARENT_SCOPE)
  set(${in_words} "architectures ${words}" PARENT_SCOPE)
endfunction()
