#include "client/cpp/chunked_call.h"

#include <algorithm>
#include <memory>
#include <vector>

#include "client/cpp/chunk_stream.h"
#include "client/cpp/unary_call.h"

namespace lossd {
namespace {

using Streams = std::vector<std::unique_ptr<ChunkStream>>;

Streams MakeStreams(const Channels& channels, ChunkWork& work) {
  Streams streams;
  const int64_t most = std::max<int64_t>(work.options.num_streams, 1);
  for (int64_t i = 0; i < std::min(most, work.chunks.count()); ++i) {
    streams.push_back(std::make_unique<ChunkStream>(work, channels, static_cast<int>(i)));
  }
  return streams;
}

// Until nothing of any stream is in the queue.
void Drive(const Streams& streams, ChunkWork& work) {
  const auto busy = [](const auto& stream) { return stream->busy(); };
  for (const auto& stream : streams) stream->Advance();
  bool ended = false;
  while (std::any_of(streams.begin(), streams.end(), busy)) {
    void* event = nullptr;
    bool ok = false;
    if (!work.queue.Next(&event, &ok)) return;
    const auto* tag = static_cast<ChunkStream::Tag*>(event);
    tag->stream->On(tag->step, ok);
    if (!work.ended() && !work.waiting.empty()) {  // what one stream has put back another may take
      for (const auto& stream : streams) stream->Advance();
    }
    if (ended || !work.ended()) continue;
    ended = true;
    for (const auto& stream : streams) stream->End();
  }
}

void CallOneByOne(const Channels& channels, ChunkWork& work) {
  work.failure = absl::OkStatus();
  while (!work.ended()) {
    const int64_t chunk = work.waiting.extract(work.waiting.begin()).value();
    work.failure = work.assembly.Add(chunk, [&](Place place, Evaluation& evaluation) {
      return CallEvaluate(channels, work.chunks[chunk], work.deadline, place, evaluation);
    });
    if (work.failure.ok()) work.Report();
  }
}

}  // namespace

absl::StatusOr<Evaluation> CallInChunks(const Channels& channels, const Chunks& chunks, const EvaluateOptions& options,
                                        absl::Time deadline) {
  ChunkWork work{.chunks = chunks, .options = options, .deadline = deadline, .assembly = Assembly(chunks, options)};
  for (int64_t chunk = 0; chunk < chunks.count(); ++chunk) work.waiting.insert(work.waiting.end(), chunk);
  Drive(MakeStreams(channels, work), work);
  AwaitReturn(work.memory, work.queue);
  const bool none_answered = static_cast<int64_t>(work.waiting.size()) == chunks.count();
  if (absl::IsUnimplemented(work.failure) && none_answered) CallOneByOne(channels, work);
  if (!work.failure.ok()) return work.failure;
  return work.assembly.Finish();
}

}  // namespace lossd
