# The real binaries, over the wire: against PyTorch, and everything a client or an operator can do to them. One ctest
# test for each file; Debian's Python, since Debian's PyTorch and gRPC are its.
set(LOSSD_PYTHON /usr/bin/python3 CACHE FILEPATH "Python with pytest, torch and grpc")

file(GLOB python_tests CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/python/test_*.py)
foreach(path ${python_tests})
  cmake_path(GET path STEM name)
  add_test(NAME python/${name}
           COMMAND ${LOSSD_PYTHON} -m pytest -q -p no:cacheprovider ${path}
           WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
  set_tests_properties(python/${name} PROPERTIES
    ENVIRONMENT "LOSSD_BINARY=$<TARGET_FILE:lossd>;LOSSCTL_BINARY=$<TARGET_FILE:lossctl>;PYTHONDONTWRITEBYTECODE=1"
    TIMEOUT 900)
endforeach()
