// exp_error: the largest error of lossd's exp over every float there is, on every SIMD target, in units of the last
// place of the result; the truth is exp in double. exp(x - m) for all x <= m: once from m = 0, and from an m whose
// fraction, and one whose size, put the origin elsewhere. A few minutes on two cores. Fails above the documented bound.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <string_view>
#include <thread>
#include <vector>

#include "hwy/highway.h"
#include "loss/row.h"

namespace lossd {
namespace {

// docs/numerics.md. An origin that is not 0 or a large m has a factor of its own, and so two roundings more.
struct Origin {
  float max;
  double bound;  // at x = m
};
constexpr Origin kOrigins[] = {{0, 1.2}, {37.7f, 2.2}, {-1234.5f, 1.2}};
constexpr double kDrift = 0.047;  // what the bound grows by with each unit of m - x, where there is FMA

struct Worst {
  double ulps = 0, over_drift = 0;
  float x = 0, x_over_drift = 0;

  void Raise(const Worst& other) {
    if (!(other.ulps <= ulps)) ulps = other.ulps, x = other.x;
    if (!(other.over_drift <= over_drift)) over_drift = other.over_drift, x_over_drift = other.x_over_drift;
  }
};

// |y - truth| in units of the last place that a float of truth's size has; truth >= 0. By the bits: this is done for
// thirty billion numbers.
double Ulps(float y, double truth) {
  constexpr int kBias = std::numeric_limits<double>::max_exponent - 1, kMantissaBits = 52;
  const int exponent = std::max(static_cast<int>(std::bit_cast<uint64_t>(truth) >> kMantissaBits) - kBias, -126);
  const auto place = std::bit_cast<double>(static_cast<uint64_t>(exponent - 23 + kBias) << kMantissaBits);
  return std::fabs(static_cast<double>(y) - truth) / place;
}

// The floats up to `max`, in the order of the numbers, every `threads`-th chunk of them.
Worst WorstOf(float max, double drift, uint64_t thread, uint64_t threads) {
  constexpr uint64_t kChunk = 4096, kFloats = uint64_t{1} << 32;
  const RowKernels<float> kernels = RowKernelsOf<float>();
  std::vector<float> x(kChunk), y(kChunk);
  Worst worst;
  for (uint64_t first = thread * kChunk; first < kFloats; first += threads * kChunk) {
    for (size_t i = 0; i < kChunk; ++i) {
      const auto place = static_cast<uint32_t>(first + i);  // 0 is -NaN's end, 2^31 is 0
      x[i] = std::bit_cast<float>(place < 0x80000000u ? ~place : place - 0x80000000u);
    }
    if (x.front() > max) break;  // as are all that follow, or NaN
    kernels.scatter(x.data(), 0, kChunk, {.max = max, .p_scale = 1}, y.data());
    for (size_t i = 0; i < kChunk; ++i) {
      const double z = static_cast<double>(x[i]) - static_cast<double>(max);
      if (!(z <= 0)) continue;  // NaN, and what no row has beside m
      const double ulps = Ulps(y[i], std::exp(z));
      worst.Raise({ulps, ulps + drift * z, x[i], x[i]});
    }
  }
  return worst;
}

Worst WorstOfAll(float max, double drift, unsigned threads) {
  std::vector<Worst> found(threads);
  std::vector<std::thread> pool;
  for (unsigned t = 0; t < threads; ++t) {
    pool.emplace_back([&, t] { found[t] = WorstOf(max, drift, t, threads); });
  }
  Worst worst;
  for (unsigned t = 0; t < threads; ++t) {
    pool[t].join();
    worst.Raise(found[t]);
  }
  return worst;
}

int Run() {
  bool within = true;
  std::printf("%-8s %8s %16s %12s %22s %16s\n", "target", "m", "worst x", "error (ulp)", "less the drift", "at x");
  for (int64_t target : hwy::SupportedAndGeneratedTargets()) {
    hwy::SetSupportedTargetsForTest(target);
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
    for (const auto& [max, bound] : kOrigins) {
      std::fprintf(stderr, "%s, m = %g ...\r", hwy::TargetName(target), static_cast<double>(max));
      const double drift = std::string_view(hwy::TargetName(target)).starts_with("AVX") ? kDrift : 0;
      const Worst worst = WorstOfAll(max, drift, std::max(std::thread::hardware_concurrency(), 1u));
      std::printf("%-8s %8g %16.9g %12.4f %22.4f %16.9g\n", hwy::TargetName(target), static_cast<double>(max),
                  static_cast<double>(worst.x), worst.ulps, worst.over_drift, static_cast<double>(worst.x_over_drift));
      within = within && worst.over_drift <= bound;
    }
  }
  std::puts(within ? "within the documented bound" : "OUTSIDE the documented bound");
  return within ? 0 : 1;
}

}  // namespace
}  // namespace lossd

int main() { return lossd::Run(); }
