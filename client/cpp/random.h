// Pseudo-random numbers that are the same on every machine and with every standard library.
#ifndef LOSSD_CLIENT_CPP_RANDOM_H_
#define LOSSD_CLIENT_CPP_RANDOM_H_

#include <cstdint>

namespace lossd {

// SplitMix64. Equal seeds give equal sequences; not for secrets.
// Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}

  // All 2^64 values alike.
  uint64_t Next() {
    uint64_t z = (state_ += 0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
  }

  // In [0, bound), with a bias of less than bound / 2^64. REQUIRES: bound > 0.
  uint64_t Below(uint64_t bound) { return Next() % bound; }

  // In [0, 1), a multiple of 2^-24: exact in float.
  float Uniform() { return static_cast<float>(Next() >> 40) * 0x1p-24f; }

  // Nearly normal, mean 0 and variance 1: four 16-bit uniforms added up. At most sqrt(12) from 0. No libm: the same
  // bits everywhere.
  float Normal() {
    const uint64_t bits = Next();
    const int64_t sum =
        static_cast<int64_t>((bits & 0xffff) + (bits >> 16 & 0xffff) + (bits >> 32 & 0xffff) + (bits >> 48));
    return static_cast<float>(sum - 2 * 0xffff) * (1.7320508f / 65536.0f);
  }

 private:
  uint64_t state_;
};

}  // namespace lossd

#endif  // LOSSD_CLIENT_CPP_RANDOM_H_
