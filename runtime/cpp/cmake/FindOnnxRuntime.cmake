# Finds ONNX Runtime in the folder that ONNXRUNTIME_ROOT names, an unpacked release archive, or else in the system.
# Defines the target OnnxRuntime::OnnxRuntime.
if(DEFINED CACHE{ONNXRUNTIME_ROOT})
  # With the type PATH, a relative path of the command line counts from where cmake was called.
  set(ONNXRUNTIME_ROOT "" CACHE PATH "The folder of ONNX Runtime, with include and lib in it")
endif()
find_path(
  OnnxRuntime_INCLUDE_DIR onnxruntime_cxx_api.h
  HINTS "${ONNXRUNTIME_ROOT}" ENV ONNXRUNTIME_ROOT
  PATH_SUFFIXES include include/onnxruntime include/onnxruntime/core/session)
find_library(
  OnnxRuntime_LIBRARY onnxruntime
  HINTS "${ONNXRUNTIME_ROOT}" ENV ONNXRUNTIME_ROOT
  PATH_SUFFIXES lib lib64)

if(ONNXRUNTIME_ROOT)
  set(searched "ONNXRUNTIME_ROOT is ${ONNXRUNTIME_ROOT}")
elseif(DEFINED ENV{ONNXRUNTIME_ROOT})
  set(searched "ONNXRUNTIME_ROOT of the environment, which has to be an absolute path, is $ENV{ONNXRUNTIME_ROOT}")
else()
  set(searched "ONNXRUNTIME_ROOT is not set, and the system has none")
endif()
include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(
  OnnxRuntime
  REQUIRED_VARS OnnxRuntime_LIBRARY OnnxRuntime_INCLUDE_DIR
  REASON_FAILURE_MESSAGE "${searched}. Pass -DONNXRUNTIME_ROOT=FOLDER: the folder of a release of ONNX Runtime, with include/onnxruntime_cxx_api.h and lib/libonnxruntime.so in it.")
mark_as_advanced(OnnxRuntime_INCLUDE_DIR OnnxRuntime_LIBRARY)

if(OnnxRuntime_FOUND AND NOT TARGET OnnxRuntime::OnnxRuntime)
  add_library(OnnxRuntime::OnnxRuntime UNKNOWN IMPORTED)
  set_target_properties(
    OnnxRuntime::OnnxRuntime PROPERTIES IMPORTED_LOCATION "${OnnxRuntime_LIBRARY}"
                                        INTERFACE_INCLUDE_DIRECTORIES "${OnnxRuntime_INCLUDE_DIR}")
endif()
