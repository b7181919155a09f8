// The kernels of rows and columns by themselves. exp, through the only door it has: scatter with p_scale 1 writes
// exp(x - max).
#include "loss/row.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string_view>
#include <utility>
#include <vector>

#include "loss/column.h"
#include "tests/batch.h"

namespace lossd {
namespace {

template <typename T>
std::vector<T> ExpOf(const std::vector<T>& x) {
  std::vector<T> y(x.size());
  RowKernelsOf<T>().scatter(x.data(), 0, static_cast<int64_t>(x.size()), {.max = 0, .p_scale = 1}, y.data());
  return y;
}

// |y - exp(x)| in units of the last place of exp(x).
template <typename T>
double UlpError(T x, T y) {
  const long double truth = std::exp(static_cast<long double>(x));
  const T next = std::nextafter(static_cast<T>(truth), std::numeric_limits<T>::infinity());
  return static_cast<double>(std::fabs(y - truth) / static_cast<long double>(next - static_cast<T>(truth)));
}

TEST(RowTest, ExpFloatIsWithinItsBound) {
  testing::ForEachSimdTarget([](const char* target) {
    // With fused multiply-add, ln 2 is taken off in one step.
    const bool fma = std::string_view(target).starts_with("AVX");
    const double bound = fma ? 1.15 : 1.12, drift = fma ? 0.047 : 0;
    std::vector<float> x;
    for (uint32_t bits = 0x80000000u; bits < 0xc2d40000u; bits += 997) {  // -0 to -106
      float value;
      std::memcpy(&value, &bits, sizeof(value));
      x.push_back(value);
    }
    const std::vector<float> y = ExpOf(x);
    for (size_t i = 0; i < x.size(); ++i) {
      ASSERT_LE(UlpError(x[i], y[i]), bound - drift * static_cast<double>(x[i])) << target << " exp(" << x[i] << ")";
    }
  });
}

// exp(x / t), whatever the temperature.
TEST(RowTest, ExpOverTemperatureIsWithinItsBound) {
  testing::ForEachSimdTarget([](const char* target) {
    for (const double t :
         {0x1p-60, 1e-9, 0.01, 0.07, 0.5, 0.999999, 1.0000001, 1.7, 2.0, 3.0, 10.0, 123456.7, 0x1p60}) {
      for (const double max : {0.0, 1.3, -311.7, 700.0, 1e6}) {  // times t
        const auto m = static_cast<float>(max * t);
        std::vector<float> x = {m};
        for (double gap = 1e-6; gap < 87; gap = gap * 1.001 + 1e-3) x.push_back(static_cast<float>(m - gap * t));
        std::vector<float> y(x.size());
        const Gradient<float> gradient{.max = m / t, .temperature = t, .p_scale = 1};
        RowKernelsOf<float>().scatter(x.data(), 0, static_cast<int64_t>(x.size()), gradient, y.data());
        for (size_t i = 0; i < x.size(); ++i) {
          const long double z = (static_cast<long double>(x[i]) - static_cast<long double>(m)) / t;
          const long double truth = std::exp(z);
          ASSERT_LE(std::fabs(y[i] - truth) / truth, 2.2 * 0x1p-23)
              << target << " exp((" << x[i] << " - " << m << ") / " << t << ")";
        }
      }
    }
  });
}

// What exponentials far below the maximum are too large is taken off their sum: focal losses of confident rows raise it
// to a power. Logits differ, so that other roundings have no common direction.
TEST(RowTest, SumsDoNotDrift) {
  testing::ForEachSimdTarget([](const char* target) {
    std::mt19937 random(3);
    std::uniform_real_distribution<float> below(0, 1);
    for (const int64_t num_classes : {200, 1000, 10000}) {
      std::vector<float> x(static_cast<size_t>(num_classes));
      for (int gap = 1; gap <= 120; ++gap) {
        double truth = 0;
        for (float& logit : x) {
          logit = -static_cast<float>(gap) - below(random);
          truth += std::exp(static_cast<double>(logit));
        }
        truth -= std::exp(static_cast<double>(std::exchange(x[77], 0.0f)));
        RowSums sums;
        RowKernelsOf<float>().reduce({x.data(), num_classes}, {}, {}, &sums);
        ASSERT_NEAR(sums.others / truth, 1, 2e-7) << target << ' ' << num_classes << " classes, " << gap << " below";
      }
    }
  });
}

TEST(RowTest, ExpDoubleIsWithinItsBound) {
  testing::ForEachSimdTarget([](const char* target) {
    std::vector<double> x;
    for (double value = -1e-12; value > -750; value = value * 1.0003 - 1e-5) x.push_back(value);
    const std::vector<double> y = ExpOf(x);
    for (size_t i = 0; i < x.size(); ++i) ASSERT_LE(UlpError(x[i], y[i]), 1.0) << target << " exp(" << x[i] << ")";
  });
}

TEST(RowTest, ExpAtTheEdges) {
  constexpr float kInf = std::numeric_limits<float>::infinity();
  testing::ForEachSimdTarget([](const char* target) {
    const std::vector<float> y = ExpOf<float>({0, -0.0f, -kInf, -1e30f, -200, std::nanf("")});
    EXPECT_EQ(y[0], 1) << target;
    EXPECT_EQ(y[1], 1) << target;
    for (size_t i : {2, 3, 4}) EXPECT_EQ(y[i], 0) << target << ' ' << i;
    EXPECT_TRUE(std::isnan(y[5])) << target;
  });
}

// ---- the gradient, wherever it begins and however it is written ----

template <typename S>
void ExpectStreamedEqualsStored() {
  testing::ForEachSimdTarget([](const char* target) {
    const RowKernels<S> kernels = RowKernelsOf<S>();
    for (int64_t size : {1, 3, 16, 40, 101}) {
      std::vector<S> x;
      for (int64_t j = 0; j < size; ++j) x.push_back(FromDouble<S>(-static_cast<double>(j % 7)));
      const std::vector<Point> points = {{0, 0.5}, {size / 2 + 1, -2}, {size - 1, 0.25}};
      const size_t count = size < 4 ? 1 : points.size();
      Gradient<ComputeType<S>> gradient{.max = 0, .p_scale = 0.125, .points = {points.data(), count}};
      for (size_t begin = 0; begin < 40; ++begin) {  // of elements past an aligned address
        alignas(64) S stored[256], streamed[256];
        gradient.stream = false;
        kernels.scatter(x.data(), 0, size, gradient, stored + begin);
        gradient.stream = true;
        kernels.scatter(x.data(), 0, size, gradient, streamed + begin);
        FlushStreams();
        ASSERT_EQ(std::memcmp(stored + begin, streamed + begin, static_cast<size_t>(size) * sizeof(S)), 0)
            << target << ' ' << size << " from " << begin;
        for (const Point& point : gradient.points) {
          ASSERT_EQ(static_cast<double>(ToDouble(stored[begin + static_cast<size_t>(point.target)])), point.value)
              << target << ' ' << size << " from " << begin;
        }
      }
    }
  });
}

TEST(RowTest, StreamedGradientEqualsStored) {
  ExpectStreamedEqualsStored<float>();
  ExpectStreamedEqualsStored<double>();
  ExpectStreamedEqualsStored<Float16>();
  ExpectStreamedEqualsStored<Bfloat16>();
}

// The gradients dx [9, size] of rows x, which may be the same, tile by tile, as a call writes them. Row 4 counts
// nowhere, row 5 was not kept, row 7 is NaN.
template <typename S>
void WriteTiles(const S* x, int64_t size, bool stream, S* dx) {
  using T = ComputeType<S>;
  constexpr int64_t kTile = 3;
  const RowKernels<S> kernels = RowKernelsOf<S>();
  std::vector<std::byte> room(static_cast<size_t>(kTile * RowRange<S>::KeptBytes(size) + 64));
  std::byte* const kept = room.data() + (64 - reinterpret_cast<uintptr_t>(room.data()) % 64) % 64;
  RowSums sums[kTile];
  Gradient<T> gradients[kTile];
  Point points[kTile];
  PendingRows<S> pending;
  SharedLine shared;
  for (int64_t tile = 0; tile < 9; tile += kTile) {
    const RowRange<S> rows{x + tile * size, size, kTile, nullptr, kept};
    kernels.reduce(rows, {}, std::exchange(pending, {}), sums);
    for (int64_t i = 0; i < kTile; ++i) {
      const int64_t row = tile + i;
      points[i] = {(row * 7) % size, 0.25};
      Gradient<T>& g = gradients[i] = {.max = sums[i].max, .p_scale = 0.125, .points = {&points[i], 1}};
      g.kept = row == 5 ? KeptRow<T>() : rows.Kept(i);
      g.stream = stream;
      g.shared = &shared;
      if (row == 4) g.p_scale = 0, g.points = {};
      if (row == 7) g.p_scale = std::numeric_limits<double>::quiet_NaN();
    }
    pending = {rows.x, gradients, dx + tile * size, kTile};
  }
  for (int64_t i = 0; i < kTile; ++i)
    kernels.scatter(pending.x.From(i * size), 0, size, gradients[i], pending.dx + i * size);
  shared.Flush();
  FlushStreams();
}

template <typename S>
void ExpectStreamedRowsEqualStored() {
  testing::ForEachSimdTarget([](const char* target) {
    std::mt19937 random(5);
    std::normal_distribution<double> normal(0, 3);
    for (const int64_t size : {1, 5, 31, 33, 100, 101, 129, 1000, 2049, 4100}) {
      const size_t count = static_cast<size_t>(9 * size);
      std::vector<S> x(count);
      for (S& value : x) value = FromDouble<S>(normal(random));
      for (const size_t begin : {0, 1, 3, 8, 31}) {
        SCOPED_TRACE(::testing::Message() << target << ": rows of " << size << " from " << begin);
        std::vector<S> buffers[3];
        S* starts[3];
        for (int i = 0; i < 3; ++i) {
          const size_t line = 64 / sizeof(S);
          buffers[i].assign(count + line + 64, FromDouble<S>(-77));
          S* const aligned = buffers[i].data() + line - reinterpret_cast<uintptr_t>(buffers[i].data()) % 64 / sizeof(S);
          starts[i] = aligned + begin;
        }
        std::copy(x.begin(), x.end(), starts[2]);
        WriteTiles<S>(x.data(), size, false, starts[0]);
        WriteTiles<S>(x.data(), size, true, starts[1]);
        WriteTiles<S>(starts[2], size, true, starts[2]);
        for (int i : {1, 2}) {
          ASSERT_EQ(std::memcmp(starts[i] - begin, starts[0] - begin, (count + begin + 32) * sizeof(S)), 0) << i;
        }
      }
    }
  });
}

TEST(RowTest, StreamedRowsShareLines) {
  ExpectStreamedRowsEqualStored<float>();
  ExpectStreamedRowsEqualStored<double>();
  ExpectStreamedRowsEqualStored<Float16>();
  ExpectStreamedRowsEqualStored<Bfloat16>();
}

// Every entry goes to its place, and nothing else is written.
template <typename T>
void ExpectRowsBecomeColumnsAndBack() {
  static constexpr T kUntouched = -1;
  testing::ForEachSimdTarget([](const char* target) {
    const ColumnKernels<T> kernels = ColumnKernelsOf<T>();
    for (const int64_t num_classes : {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 15, 16, 17, 31, 128}) {
      for (const int64_t count : {1, 3, 4, 8, 15, 16, 17, 33, 200}) {
        SCOPED_TRACE(::testing::Message() << target << ": " << count << " rows of " << num_classes);
        const int64_t stride = (count + kColumnLanes - 1) / kColumnLanes * kColumnLanes, size = count * num_classes;
        std::vector<T> rows(static_cast<size_t>(size)), columns(static_cast<size_t>(stride * num_classes), kUntouched);
        for (size_t i = 0; i < rows.size(); ++i) rows[i] = static_cast<T>(i);
        kernels.from_rows(rows.data(), num_classes, count, stride, columns.data());
        for (int64_t c = 0; c < num_classes; ++c) {
          for (int64_t r = 0; r < stride; ++r) {
            const T want = r < count ? static_cast<T>(r * num_classes + c) : kUntouched;
            ASSERT_EQ(columns[static_cast<size_t>(c * stride + r)], want) << c << ' ' << r;
          }
        }
        std::vector<T> back(static_cast<size_t>(size + 32), kUntouched);
        kernels.to_rows(columns.data(), stride, num_classes, count, back.data());
        rows.resize(back.size(), kUntouched);
        ASSERT_EQ(back, rows);
      }
    }
  });
}

TEST(ColumnTest, RowsBecomeColumnsAndBack) {
  ExpectRowsBecomeColumnsAndBack<float>();
  ExpectRowsBecomeColumnsAndBack<double>();
}

}  // namespace
}  // namespace lossd
