# client/cpp: against a fake lossd in the same process.
add_library(lossd_fake STATIC fake_lossd.cc)
target_link_libraries(lossd_fake
  PUBLIC lossd_proto lossd_health_proto gRPC::grpc++
  PRIVATE lossd_options)

lossd_add_test(client_test lossd_client lossd_fake absl::strings absl::synchronization)
lossd_add_test(chunked_client_test lossd_server_test_support lossctl_lib lossd_fake absl::strings absl::synchronization)
lossd_add_test(training_test lossctl_lib lossd_fake)
foreach(name verify_test npy_test dataset_test softmax_regression_test terminal_plot_test json_test
             latency_histogram_test load_schedule_test)
  lossd_add_test(${name} lossctl_lib absl::strings)
endforeach()
lossd_add_test(load_generator_test lossctl_lib lossd_proto absl::strings)
lossd_add_test(command_line_test lossctl_lib absl::flags absl::flags_reflection)
