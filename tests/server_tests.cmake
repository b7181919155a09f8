foreach(name admission buffer config executor http job_table log metrics process_stats status_page)
  lossd_add_test(${name}_test lossd_server)
endforeach()
foreach(name wire_decode wire_encode wire_hostile wire_tensor)
  lossd_add_test(${name}_test lossd_server gRPC::grpc++)
endforeach()

# server/: in the same process.
add_library(lossd_server_test_support STATIC server_fixture.cc)
target_link_libraries(lossd_server_test_support
  PUBLIC lossd_server lossd_test_support lossd_health_proto gRPC::grpc++ GTest::gtest
  PRIVATE lossd_options absl::strings absl::synchronization)
foreach(name server server_drain server_stream)
  lossd_add_test(${name}_test lossd_server_test_support)
endforeach()

# The wire's parser beside protobuf's, on any bytes: scripts/fuzz. Where sanitizers are on, and with Clang, whose it is.
if(LOSSD_SANITIZER MATCHES address AND CMAKE_CXX_COMPILER_ID MATCHES Clang)
  add_executable(wire_fuzz fuzz/wire_fuzz.cc)
  target_link_libraries(wire_fuzz PRIVATE lossd_options lossd_server gRPC::grpc++)
  target_link_options(wire_fuzz PRIVATE -fsanitize=fuzzer)
  foreach(target lossd_wire lossd_server)
    target_compile_options(${target} PRIVATE -fsanitize=fuzzer-no-link)  # tells the fuzzer where it has been
  endforeach()
  # What has been found once, and all that leads there.
  add_test(NAME wire_fuzz_corpus COMMAND wire_fuzz -runs=0 ${CMAKE_CURRENT_SOURCE_DIR}/fuzz/corpus)
endif()
