// A batch of the client, as loss/ takes it.
#ifndef LOSSD_CLIENT_CPP_BATCH_INPUTS_H_
#define LOSSD_CLIENT_CPP_BATCH_INPUTS_H_

#include "client/cpp/client.h"
#include "loss/loss.h"

namespace lossd {

inline Inputs InputsOf(const Batch& batch) {
  return {batch.logits,        batch.targets,        batch.target_probabilities,
          batch.class_weights, batch.sample_weights, batch.upstream_gradient};
}

}  // namespace lossd

#endif  // LOSSD_CLIENT_CPP_BATCH_INPUTS_H_
