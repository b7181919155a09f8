// exp_error: the largest errors of what lossd makes of every float there is, on every SIMD target, in units of the last
// place of the result; the truth is in double. exp(x - m) for all x <= m: once from m = 0, and from an m whose
// fraction, and one whose size, put the origin elsewhere. And where a loss of an entry is a function of one float, that
// loss, whose exponentials and logarithms are others: ln(1 + exp(x)), which is binary cross-entropy at t = 0, and t ln
// t, which is KL divergence at x = 0. Four minutes on two cores. Fails above the documented bounds.
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
#include "loss/pointwise.h"
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

// |y - truth| in units of the last place that a float of truth's size has. By the bits: this is done for thirty billion
// numbers.
double Ulps(float y, double truth) {
  constexpr int kBias = std::numeric_limits<double>::max_exponent - 1, kMantissaBits = 52;
  const auto biased = static_cast<int>(std::bit_cast<uint64_t>(std::fabs(truth)) >> kMantissaBits);
  const int exponent = std::max(biased - kBias, -126);
  const auto place = std::bit_cast<double>(static_cast<uint64_t>(exponent - 23 + kBias) << kMantissaBits);
  return std::fabs(static_cast<double>(y) - truth) / place;
}

constexpr uint64_t kFloats = uint64_t{1} << 32;

// The floats in the order of the numbers: 0 is -NaN's end, 2^31 is 0.
float FloatAt(uint64_t place) {
  const auto bits = static_cast<uint32_t>(place);
  return std::bit_cast<float>(bits < 0x80000000u ? ~bits : bits - 0x80000000u);
}

// The floats up to `max`, every `threads`-th chunk of them.
Worst WorstExp(float max, double drift, uint64_t thread, uint64_t threads) {
  constexpr uint64_t kChunk = 4096;
  const RowKernels<float> kernels = RowKernelsOf<float>();
  std::vector<float> x(kChunk), y(kChunk);
  Worst worst;
  for (uint64_t first = thread * kChunk; first < kFloats; first += threads * kChunk) {
    for (size_t i = 0; i < kChunk; ++i) x[i] = FloatAt(first + i);
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

// A loss of an entry as a function of one of its numbers, the other being 0; of numbers from `least` to `most`.
struct EntryLoss {
  const char* name;
  float least, most;
  void (*evaluate)(const FloatBuffer& z, FloatChunk& chunk);
  double (*truth)(double z);
};
constexpr FloatBuffer kZeros = {};
const EntryLoss kEntryLosses[] = {
    {"ln(1+e^x)", -64, 64,
     [](const FloatBuffer& x, FloatChunk& chunk) {
       chunk.logits = x.values;
       chunk.targets = kZeros.values;
       EvaluateBinaryCrossEntropy(chunk, 0);
     },
     [](double x) { return x > 0 ? x + std::log1p(std::exp(-x)) : std::log1p(std::exp(x)); }},
    {"t ln t", 0x1p-60f, 0x1p40f,
     [](const FloatBuffer& t, FloatChunk& chunk) {
       chunk.logits = kZeros.values;
       chunk.targets = t.values;
       EvaluateKl(chunk);
     },
     [](double t) { return t * std::log(t); }},
};
constexpr double kEntryBound = 4;

// The same of a loss.
Worst WorstLoss(const EntryLoss& loss, uint64_t thread, uint64_t threads) {
  FloatBuffer z, losses;
  EntryBits extraordinary;
  FloatChunk chunk{.n = kChunkEntries, .losses = losses.values, .extraordinary = &extraordinary};
  Worst worst;
  constexpr auto kChunk = static_cast<uint64_t>(kChunkEntries);
  for (uint64_t first = thread * kChunk; first < kFloats; first += threads * kChunk) {
    for (size_t i = 0; i < kChunk; ++i) z.values[i] = FloatAt(first + i);
    if (!(z.values[kChunk - 1] >= loss.least) || !(z.values[0] <= loss.most)) continue;
    loss.evaluate(z, chunk);
    for (size_t i = 0; i < kChunk; ++i) {
      const float x = z.values[i];
      if (!(x >= loss.least && x <= loss.most)) continue;
      const double ulps = Ulps(losses.values[i], loss.truth(x));
      worst.Raise({ulps, ulps, x, x});
    }
  }
  return worst;
}

// The worst of what find(thread) finds.
template <class Find>
Worst WorstOfAll(const Find& find) {
  const unsigned threads = std::max(std::thread::hardware_concurrency(), 1u);
  std::vector<Worst> found(threads);
  std::vector<std::thread> pool;
  for (unsigned t = 0; t < threads; ++t) pool.emplace_back([&, t] { found[t] = find(t, threads); });
  Worst worst;
  for (unsigned t = 0; t < threads; ++t) {
    pool[t].join();
    worst.Raise(found[t]);
  }
  return worst;
}

int Run() {
  bool within = true;
  std::printf("%-8s %9s %16s %12s %22s %16s\n", "target", "m or loss", "worst x", "error (ulp)", "less the drift",
              "at x");
  for (int64_t target : hwy::SupportedAndGeneratedTargets()) {
    hwy::SetSupportedTargetsForTest(target);
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
    for (const auto& [max, bound] : kOrigins) {
      std::fprintf(stderr, "%s, m = %g ...\r", hwy::TargetName(target), static_cast<double>(max));
      const double drift = std::string_view(hwy::TargetName(target)).starts_with("AVX") ? kDrift : 0;
      const Worst worst =
          WorstOfAll([&](uint64_t thread, uint64_t threads) { return WorstExp(max, drift, thread, threads); });
      std::printf("%-8s %9g %16.9g %12.4f %22.4f %16.9g\n", hwy::TargetName(target), static_cast<double>(max),
                  static_cast<double>(worst.x), worst.ulps, worst.over_drift, static_cast<double>(worst.x_over_drift));
      within = within && worst.over_drift <= bound;
    }
    if (!HasFloatEntries()) continue;  // they are in double
    for (const EntryLoss& loss : kEntryLosses) {
      std::fprintf(stderr, "%s, %s ...\r", hwy::TargetName(target), loss.name);
      const Worst worst =
          WorstOfAll([&](uint64_t thread, uint64_t threads) { return WorstLoss(loss, thread, threads); });
      std::printf("%-8s %9s %16.9g %12.4f\n", hwy::TargetName(target), loss.name, static_cast<double>(worst.x),
                  worst.ulps);
      within = within && worst.ulps <= kEntryBound;
    }
  }
  std::puts(within ? "within the documented bounds" : "OUTSIDE the documented bounds");
  return within ? 0 : 1;
}

}  // namespace
}  // namespace lossd

int main() { return lossd::Run(); }
