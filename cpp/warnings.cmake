# qcore_warnings(target): the warnings every C++ target of this project is built with.
function(qcore_warnings target)
  target_compile_options(${target} PRIVATE -Wall -Wextra -Wpedantic -Wshadow -Wconversion)
  if(QCORE_WERROR)
    target_compile_options(${target} PRIVATE -Werror)
  endif()
endfunction()
