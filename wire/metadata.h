// Names of what calls carry beside their messages.
#ifndef LOSSD_WIRE_METADATA_H_
#define LOSSD_WIRE_METADATA_H_

namespace lossd {

// Of a request, optional: how many bytes its message has. A server may then refuse it before the message has come.
inline constexpr char kRequestBytesKey[] = "lossd-request-bytes";

// Of a refusal: after so many milliseconds a server that is full now wants to be asked again.
inline constexpr char kPushbackKey[] = "grpc-retry-pushback-ms";

}  // namespace lossd

#endif  // LOSSD_WIRE_METADATA_H_
