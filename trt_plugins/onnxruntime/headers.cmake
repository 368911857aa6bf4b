# Where are ONNX Runtime's headers? No wheel carries them.
#
#   include(trt_plugins/onnxruntime/headers.cmake)
#   find_onnxruntime_headers(directory how)   # directory holds onnxruntime_c_api.h, or is empty; how: where from, or why not
#
# In this order: ONNXRUNTIME_INCLUDE_DIR (CMake variable, then environment), the system, what an earlier configuration
# fetched, apt (fetch_headers.sh), the release archive from GitHub. What is fetched lands in the build tree only.
# MASK2EDGE_FETCH_HEADERS=OFF fetches nothing.

option(MASK2EDGE_FETCH_HEADERS "Fetch headers where the machine has none" ON)

set(_onnxruntime_header_script "${CMAKE_CURRENT_LIST_DIR}/fetch_headers.sh")
set(_onnxruntime_release 1.20.1)
set(_onnxruntime_release_sha256 67db4dc1561f1e3fd42e619575c82c601ef89849afc7ea85a003abbac1a1a105)

# The folder under any of the roots that holds onnxruntime_c_api.h, or an empty string.
function(_onnxruntime_header_folder result)
  find_path(found onnxruntime_c_api.h
    PATHS ${ARGN}
    PATH_SUFFIXES include include/onnxruntime onnxruntime onnxruntime/core/session include/onnxruntime/core/session
    NO_DEFAULT_PATH NO_CACHE)
  if(found)
    set(${result} "${found}" PARENT_SCOPE)
  else()
    set(${result} "" PARENT_SCOPE)
  endif()
endfunction()

# The release archive: 7 MB, of which only the headers are kept. Quiet, and soon over where there is no internet.
function(_onnxruntime_download destination)
  set(name "onnxruntime-linux-x64-${_onnxruntime_release}")  # the headers are the same for every architecture
  set(archive "${destination}/${name}.tgz")
  file(DOWNLOAD "https://github.com/microsoft/onnxruntime/releases/download/v${_onnxruntime_release}/${name}.tgz"
    "${archive}" INACTIVITY_TIMEOUT 10 TIMEOUT 40 STATUS status)
  list(GET status 0 code)
  if(code EQUAL 0)
    file(SHA256 "${archive}" digest)
    if(digest STREQUAL _onnxruntime_release_sha256)
      file(ARCHIVE_EXTRACT INPUT "${archive}" DESTINATION "${destination}" PATTERNS "${name}/include/*")
    endif()
  endif()
  file(REMOVE "${archive}")
endfunction()

function(find_onnxruntime_headers directory how)
  set(explicit "${ONNXRUNTIME_INCLUDE_DIR}")
  if(NOT explicit)
    set(explicit "$ENV{ONNXRUNTIME_INCLUDE_DIR}")
  endif()
  set(fetched "${CMAKE_BINARY_DIR}/onnxruntime-headers")

  if(explicit)
    _onnxruntime_header_folder(folder "${explicit}")
    set(origin "ONNXRUNTIME_INCLUDE_DIR")
    if(NOT folder)
      set(origin "no onnxruntime_c_api.h under ONNXRUNTIME_INCLUDE_DIR = ${explicit}")
    endif()
  else()
    _onnxruntime_header_folder(folder /usr/include /usr/local/include /opt/onnxruntime)
    set(origin "the system")
    if(NOT folder)
      _onnxruntime_header_folder(folder "${fetched}" "${fetched}/onnxruntime-linux-x64-${_onnxruntime_release}")
      set(origin "the build folder")
    endif()
    if(NOT folder AND MASK2EDGE_FETCH_HEADERS)
      execute_process(COMMAND sh "${_onnxruntime_header_script}" "${fetched}" OUTPUT_QUIET ERROR_QUIET TIMEOUT 60)
      _onnxruntime_header_folder(folder "${fetched}")
      set(origin "apt")
    endif()
    if(NOT folder AND MASK2EDGE_FETCH_HEADERS)
      _onnxruntime_download("${fetched}")
      _onnxruntime_header_folder(folder "${fetched}/onnxruntime-linux-x64-${_onnxruntime_release}")
      set(origin "the release archive")
    endif()
    if(NOT folder)
      set(origin "no ONNX Runtime headers here, from apt or from the release archive: set ONNXRUNTIME_INCLUDE_DIR")
    endif()
  endif()
  set(${directory} "${folder}" PARENT_SCOPE)
  set(${how} "${origin}" PARENT_SCOPE)
endfunction()
