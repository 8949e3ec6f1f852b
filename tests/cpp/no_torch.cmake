# Fails if a source under cpp/ or cuda/ includes a header of torch (or its parts c10, ATen) or of Python.
file(GLOB_RECURSE sources "${ROOT}/cpp/*.h" "${ROOT}/cpp/*.cpp" "${ROOT}/cpp/*.def" "${ROOT}/cuda/*.cu"
     "${ROOT}/cuda/*.cuh" "${ROOT}/cuda/*.h" "${ROOT}/cuda/*.cpp")
list(LENGTH sources count)
if(count LESS 10)
  message(FATAL_ERROR "found only ${count} sources under ${ROOT}: is the path right?")
endif()
set(bad "")
foreach(source IN LISTS sources)
  file(STRINGS "${source}" lines
       REGEX "^[ \t]*#[ \t]*include[ \t]*[<\"](torch|c10|ATen|caffe2|Python\\.h|pybind11)")
  foreach(line IN LISTS lines)
    string(APPEND bad "\n  ${source}: ${line}")
  endforeach()
endforeach()
if(bad)
  message(FATAL_ERROR "the core must not include torch:${bad}")
endif()
message(STATUS "${count} sources, none includes torch")
