foreach(name admission config executor http job_table log metrics process_stats status_page)
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
