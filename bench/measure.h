// Times contenders against each other: in rounds, one after the other, so that whatever the machine does meanwhile
// happens to all of them; what counts is the median.
//
// A contender's turn is calls that are not timed, for kWarmSeconds, then the timed ones: what is in the caches, and
// which threads are awake, is what its own calls leave there, as if it ran alone in a loop. (One call is not enough for
// that where a cache of hundreds of MB holds a part of the data: there it took ten.) Calls that take longer than any
// cache could save them (kLongSeconds) are timed at once. After a turn everybody waits until the contender's process
// rests: threads spin for a while after their work, those of OpenMP for 7 to 30 ms, and must not take the time of the
// next contender.
#ifndef LOSSD_BENCH_MEASURE_H_
#define LOSSD_BENCH_MEASURE_H_

#include <sys/types.h>

#include <functional>
#include <string>
#include <vector>

#include "bench/problem.h"

namespace lossd::bench {

struct Contender {
  TimedCalls run;
  pid_t process = 0;              // that computes; 0: this one
  int calls = 1;                  // in one sample: short ones are timed together
  int passes = 1;                 // samples in one turn
  std::vector<double> samples{};  // seconds of one call
};

double Median(std::vector<double> values);

struct Rounds {
  int least = 5;
  int most = 41;
  double seconds = 8;  // no further round after that
  // Each sample is one call that finds nothing of the tensors in any cache: what memory allows, wherever a cache is
  // large enough to keep a part of them.
  bool cold = false;
};

// Learns how long each contender takes, then runs the rounds. `progress` is called before each one. Returns how many
// there were.
int Measure(std::vector<Contender>& contenders, const Rounds& rounds, const std::function<void(int round)>& progress);

}  // namespace lossd::bench

#endif  // LOSSD_BENCH_MEASURE_H_
