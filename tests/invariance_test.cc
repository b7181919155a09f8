// The same bits, whatever the threads, the chunks, the order or the position: semantics of exactness rule 6.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <iterator>
#include <limits>
#include <numeric>
#include <string>
#include <tuple>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/batch.h"

namespace lossd {
namespace {

using testing::Batch;
using testing::Outcome;
using testing::OwnedTensor;

constexpr int64_t kRows = 1000;
constexpr int64_t kClasses = 77;

Batch WholeBatch(DataType targets = DataType::kInt64, DataType type = DataType::kFloat32) {
  std::mt19937_64 random(1);
  testing::BatchOptions options{.type = type, .target_type = targets, .outer = {kRows}, .num_classes = kClasses};
  options.class_weights = true;
  options.ignore_some = true;
  Batch batch = testing::RandomBatch(options, random);
  std::get<CrossEntropy>(batch.spec.loss).label_smoothing = 0.1;
  batch.spec.outputs = {Output::kLogitsGradient, Output::kElementLoss};
  return batch;
}

// The rows of `tensor`, which has kRows of them, that `rows` names.
OwnedTensor Select(const OwnedTensor& tensor, const std::vector<int64_t>& rows) {
  Shape shape{static_cast<int64_t>(rows.size())};
  for (int axis = 1; axis < tensor.type().shape.rank(); ++axis) shape.push_back(tensor.type().shape[axis]);
  OwnedTensor part({tensor.type().data_type, shape});
  const int64_t row_bytes = tensor.size() / kRows * SizeOf(tensor.type().data_type);
  for (size_t i = 0; i < rows.size(); ++i) {
    std::memcpy(part.data() + static_cast<int64_t>(i) * row_bytes, tensor.data() + rows[i] * row_bytes,
                static_cast<size_t>(row_bytes));
  }
  return part;
}

Outcome EvaluateRows(const Batch& whole, const std::vector<int64_t>& rows, double normalizer) {
  Batch part;
  part.spec = whole.spec;
  part.spec.normalizer = normalizer;
  part.logits = Select(whole.logits, rows);
  part.targets = Select(whole.targets, rows);
  part.class_weights = whole.class_weights;
  return testing::Evaluate(part).value();
}

TEST(InvarianceTest, AnyNumberOfThreads) {
  testing::ForEachSimdTarget([](const char* target) {
    for (const auto& [targets, type] : {std::pair(DataType::kInt64, DataType::kFloat32),
                                        {DataType::kFloat32, DataType::kFloat32},
                                        {DataType::kInt64, DataType::kBfloat16},
                                        {DataType::kFloat16, DataType::kFloat64}}) {
      const Batch batch = WholeBatch(targets, type);
      const Outcome alone = testing::Evaluate(batch, 1).value();
      ASSERT_GT(alone.plan.num_blocks, 1);
      for (int threads : {2, 3, 7}) {
        const Outcome together = testing::Evaluate(batch, threads).value();
        EXPECT_EQ(together.results.loss.Bits(), alone.results.loss.Bits()) << target << ' ' << threads;
        EXPECT_EQ(together.results.logits_gradient.Bits(), alone.results.logits_gradient.Bits()) << target;
        EXPECT_EQ(together.summary.loss_sum, alone.summary.loss_sum) << target << ' ' << threads;
      }
    }
  });
}

struct Split {
  const char* name;
  int64_t chunk;
  bool reversed;
};

void ExpectChunksEqualWhole(const Batch& batch) {
  const Outcome whole = testing::Evaluate(batch).value();
  for (const Split& split : {Split{"one by one", 1, false}, {"by 7", 7, false}, {"reversed", kRows, true}}) {
    std::vector<int64_t> order(kRows);
    std::iota(order.begin(), order.end(), 0);
    if (split.reversed) std::reverse(order.begin(), order.end());
    double loss_sum = 0;
    for (int64_t first = 0; first < kRows; first += split.chunk) {
      const std::vector<int64_t> rows(order.begin() + first, order.begin() + std::min(first + split.chunk, kRows));
      const Outcome part = EvaluateRows(batch, rows, whole.summary.weight_sum);
      ASSERT_EQ(part.results.element_loss.Bits(), Select(whole.results.element_loss, rows).Bits()) << split.name;
      ASSERT_EQ(part.results.logits_gradient.Bits(), Select(whole.results.logits_gradient, rows).Bits()) << split.name;
      loss_sum += part.summary.loss_sum;
    }
    EXPECT_NEAR(loss_sum / whole.summary.loss_sum, 1, 1e-12) << split.name;
  }
}

constexpr std::pair<DataType, DataType> kHostileTypes[] = {{DataType::kInt32, DataType::kFloat32},  // targets, logits
                                                           {DataType::kInt32, DataType::kFloat64},
                                                           {DataType::kInt32, DataType::kBfloat16},
                                                           {DataType::kInt32, DataType::kFloat16},
                                                           {DataType::kFloat32, DataType::kFloat32}};
constexpr int64_t kHostileClasses[] = {129, 1003, 20001};

// Rows of every kind: some that nothing is kept of, some whose blocks are too far apart for what is kept.
Batch HostileRows(int64_t num_classes, DataType targets, DataType type) {
  std::mt19937_64 random(3);
  const int64_t count = 6 * 65536 / num_classes + 1;
  Batch batch = testing::RandomBatch(
      {.type = type, .target_type = targets, .outer = {count}, .num_classes = num_classes, .ignore_some = true},
      random);
  constexpr double kInfinity = std::numeric_limits<double>::infinity(), kNan = std::numeric_limits<double>::quiet_NaN();
  const double large = type == DataType::kFloat16 ? 6e4 : 1e38;
  for (int64_t row = 0; row < count; ++row) {
    const int64_t first = row * num_classes, last = first + num_classes - 1;
    const double values[] = {kNan, kInfinity, -kInfinity, large, -large, 300};
    if (const int64_t kind = row % 11; kind < 6) batch.logits.set(row % 2 == 0 ? last : first, values[kind]);
    for (int64_t i = first; row % 11 == 7 && i <= last; ++i) batch.logits.set(i, -kInfinity);
    for (int64_t i = first; row % 11 == 8 && i <= last; ++i) batch.logits.set(i, large);
    const double far = type == DataType::kFloat64 ? -400 : -60;
    for (int64_t i = first; row % 11 == 9 && i < last; ++i) batch.logits.set(i, far - static_cast<double>(i % 5));
  }
  batch.spec.outputs = {Output::kLogitsGradient};
  return batch;
}

// The bits of the gradient, and of the losses, where the blocks are evaluated in runs of so many: two threads take
// turns.
std::string BitsInRuns(const Batch& batch, const Outcome& whole, int64_t run, bool stream, int misalignment) {
  Plan plan = whole.plan;
  plan.stream_gradient = stream;
  OwnedTensor gradient(plan.results.logits_gradient, misalignment), loss(plan.results.loss);
  const Results results{.loss = loss.mutable_view(), .logits_gradient = gradient.mutable_view()};
  std::vector<BlockSummary> blocks(static_cast<size_t>(plan.num_blocks));
  const auto evaluate_every_second = [&](int64_t first) {
    OwnedTensor scratch({DataType::kInt8, Shape{plan.scratch_bytes}});
    for (int64_t begin = first * run; begin < plan.num_blocks; begin += 2 * run) {
      const Plan::Range range = {begin, std::min(begin + run, plan.num_blocks)};
      EvaluateBlocks(plan, batch.inputs(), whole.weights, range, results, scratch.data(), blocks);
    }
  };
  std::thread other([&] { evaluate_every_second(1); });
  evaluate_every_second(0);
  other.join();
  Summarize(plan, whole.weights, blocks, results);
  return loss.Bits() + gradient.Bits();
}

// The same where the gradient overwrites the logits.
std::string BitsInPlace(Batch batch, const Outcome& whole, bool stream) {
  Plan plan = whole.plan;
  plan.stream_gradient = stream;
  OwnedTensor loss(plan.results.loss), scratch({DataType::kInt8, Shape{plan.scratch_bytes}});
  const Results results{.loss = loss.mutable_view(), .logits_gradient = batch.logits.mutable_view()};
  std::vector<BlockSummary> blocks(static_cast<size_t>(plan.num_blocks));
  EvaluateBlocks(plan, batch.inputs(), whole.weights, {0, plan.num_blocks}, results, scratch.data(), blocks);
  Summarize(plan, whole.weights, blocks, results);
  return loss.Bits() + batch.logits.Bits();
}

// The gradient of a row is written while another one is read, or alone: where nothing follows it in its run.
TEST(InvarianceTest, AnyRuns) {
  testing::ForEachSimdTarget([](const char* target) {
    for (const auto& [targets, type] : kHostileTypes) {
      for (const int64_t num_classes : kHostileClasses) {
        for (const double smoothing : {0.0, 0.1}) {
          Batch batch = HostileRows(num_classes, targets, type);
          std::get<CrossEntropy>(batch.spec.loss).label_smoothing = smoothing;
          const Outcome whole = testing::Evaluate(batch).value();
          ASSERT_GE(whole.plan.num_blocks, 6);
          ASSERT_GT(whole.plan.run_blocks, 1);
          const std::string alone = BitsInRuns(batch, whole, 1, false, 0);
          for (const auto& [run, stream, misalignment] :
               {std::tuple(2, false, 0), {1, true, 8}, {3, true, 0}, {99, true, 24}}) {
            EXPECT_EQ(BitsInRuns(batch, whole, run, stream, misalignment) == alone, true)
                << target << ' ' << Name(type) << ' ' << num_classes << ' ' << run;
          }
          for (const bool stream : {false, true}) {
            EXPECT_EQ(BitsInPlace(batch, whole, stream) == alone, true)
                << target << ' ' << Name(type) << ' ' << num_classes;
          }
        }
      }
    }
  });
}

// A tensor in pieces of many lengths, each in memory of its own, which ends where it ends.
class InPieces {
 public:
  InPieces(const InPieces&) = delete;
  explicit InPieces(const OwnedTensor& tensor) {
    constexpr size_t kLengths[] = {5000, 1, 40000, 3, 8192, 8191, 2, 8193, 100000, 17};
    const std::string bytes = tensor.Bits();
    for (size_t begin = 0, i = 0; begin < bytes.size(); begin = ends_.back()) {
      const size_t end = std::min(begin + kLengths[i++ % std::size(kLengths)], bytes.size());
      pieces_.emplace_back(bytes.begin() + static_cast<ptrdiff_t>(begin), bytes.begin() + static_cast<ptrdiff_t>(end));
      ends_.push_back(end);
    }
  }
  const PieceReader* reader() const { return &reader_; }
  const std::vector<size_t>& ends() const { return ends_; }
  int64_t num_copied() const { return num_copied_; }

 private:
  static const void* Read(void* context, int64_t offset, int64_t size, void* room) {
    auto& self = *static_cast<InPieces*>(context);
    EXPECT_LE(size, 8192);
    if (size == 0) return room;
    const size_t first = static_cast<size_t>(offset), last = first + static_cast<size_t>(size) - 1;
    const size_t piece = self.PieceAt(first);
    if (self.PieceAt(last) == piece) return &self.At(first);
    ++self.num_copied_;
    for (size_t i = first; i <= last; ++i) static_cast<char*>(room)[i - first] = self.At(i);
    return room;
  }
  size_t PieceAt(size_t byte) const {
    return static_cast<size_t>(std::upper_bound(ends_.begin(), ends_.end(), byte) - ends_.begin());
  }
  const char& At(size_t byte) const {
    const size_t piece = PieceAt(byte);
    return pieces_[piece][byte - (piece == 0 ? 0 : ends_[piece - 1])];
  }

  std::vector<std::vector<char>> pieces_;
  std::vector<size_t> ends_;
  std::atomic<int64_t> num_copied_ = 0;
  const PieceReader reader_{&Read, this};
};

// Class indices that are in two pieces, of some rows.
void AimBetweenPieces(const InPieces& pieces, Batch& batch) {
  const int64_t num_classes = batch.logits.type().shape[1], bytes = SizeOf(batch.logits.type().data_type);
  for (const size_t end : pieces.ends()) {
    const int64_t entry = static_cast<int64_t>(end) / bytes;
    if (static_cast<int64_t>(end) % bytes != 0)
      batch.targets.set(entry / num_classes, static_cast<double>(entry % num_classes));
  }
}

// An upstream gradient with which no gradient fits the vector code, and few are 0 or infinite.
OwnedTensor ExtremeUpstream(DataType type) {
  return OwnedTensor::Doubles({}, {type == DataType::kFloat64 ? 1e-160 : type == DataType::kFloat16 ? 1e16 : 1e-20});
}

// Logits in pieces are read where they are, block by block, or put together for a block.
TEST(InvarianceTest, AnyPieces) {
  testing::ForEachSimdTarget([](const char* target) {
    for (const auto& [targets, type] : kHostileTypes) {
      for (const int64_t num_classes : kHostileClasses) {
        SCOPED_TRACE(absl::StrCat(target, ", ", Name(type), ", ", num_classes, " classes"));
        Batch batch = HostileRows(num_classes, targets, type);
        InPieces pieces(batch.logits);
        if (!IsFloat(targets)) AimBetweenPieces(pieces, batch);
        for (const OwnedTensor& upstream : {OwnedTensor::Doubles({}, {1}), ExtremeUpstream(type)}) {
          batch.upstream_gradient = upstream;
          const Outcome whole = testing::Evaluate(batch).value();
          ASSERT_TRUE(whole.plan.reads_pieces);
          const std::string alone = BitsInRuns(batch, whole, 2, false, 0);
          Batch in_pieces = batch;
          in_pieces.pieces = pieces.reader();
          for (const auto& [run, stream, misalignment] : {std::tuple(1, false, 0), {2, true, 8}, {99, true, 0}}) {
            EXPECT_EQ(BitsInRuns(in_pieces, whole, run, stream, misalignment) == alone, true) << run;
          }
        }
        EXPECT_GT(pieces.num_copied(), 0);
      }
    }
  });
}

void ExpectPiecesEqualWhole(const char* name, Batch batch) {
  SCOPED_TRACE(name);
  InPieces pieces(batch.logits);
  const Outcome whole = testing::Evaluate(batch).value();
  ASSERT_TRUE(whole.plan.reads_pieces);
  batch.pieces = pieces.reader();
  const Outcome read = testing::Evaluate(batch).value();
  EXPECT_GT(pieces.num_copied(), 0);
  EXPECT_EQ(read.summary.correct_count, whole.summary.correct_count);
  ForEachResult(
      [](const char* result, const OwnedTensor& got, const OwnedTensor& want) {
        if (!want) return;
        EXPECT_EQ(got.Bits() == want.Bits(), true) << result;
      },
      read.results, whole.results);
}

// The same of every output that needs no more than a block at a time, with everything that may change it.
TEST(InvarianceTest, AnyPiecesOfAnyOutput) {
  Batch focal = HostileRows(1003, DataType::kInt64, DataType::kFloat32);
  focal.spec.outputs = {Output::kElementLoss, Output::kLogSumExp, Output::kTargetLogProbability,
                        Output::kPredictedClass, Output::kLogitsGradient};
  std::get<CrossEntropy>(focal.spec.loss).focal_gamma = 2;
  ExpectPiecesEqualWhole("focal", focal);

  std::mt19937_64 random(11);
  testing::BatchOptions options{.outer = {300}, .num_classes = 1003, .class_weights = true, .sample_weights = true};
  Batch poly = testing::RandomBatch(options, random);
  poly.spec.outputs = {Output::kPredictedClass, Output::kLogitsGradient};
  std::get<CrossEntropy>(poly.spec.loss).poly_epsilon = 0.5;
  ExpectPiecesEqualWhole("poly, weights", poly);

  options.sparse_size = 5;
  Batch sparse = testing::RandomBatch(options, random);
  sparse.spec.reduction = Reduction::kNone;
  sparse.spec.outputs = {Output::kTargetsGradient, Output::kLogitsGradient, Output::kLogSumExp};
  std::get<CrossEntropy>(sparse.spec.loss).z_loss = 0.1;
  ExpectPiecesEqualWhole("sparse, z-loss", sparse);

  options = {.target_type = DataType::kBfloat16, .outer = {300}, .num_classes = 1003};
  Batch dense = testing::RandomBatch(options, random);  // its targets are widened in the scratch
  dense.spec.outputs = {Output::kElementLoss};
  std::get<CrossEntropy>(dense.spec.loss).label_smoothing = 0.1;
  ExpectPiecesEqualWhole("dense, smoothed", dense);
}

// Classes that lie apart go by tiles, each copied while another one is computed: within a block or across blocks, but
// not from one run to the next. Some are computed twice.
TEST(InvarianceTest, AnyRunsOfTiles) {
  testing::ForEachSimdTarget([](const char* target) {
    std::mt19937_64 random(9);
    for (const auto& [type, num_classes, rest, smoothing] : {std::tuple(DataType::kFloat32, 21, 32, 0.0),
                                                             {DataType::kFloat32, 3, 5, 0.0},
                                                             {DataType::kFloat64, 100, 16, 0.0},
                                                             {DataType::kFloat32, 21, 32, 0.1},
                                                             {DataType::kFloat32, 100, 16, 0.1},
                                                             {DataType::kFloat64, 100, 16, 0.1}}) {
      const int64_t inner = 3 * 65536 / num_classes / 16 * 16 + rest, count = 3 * inner;
      Batch batch = testing::RandomBatch({.type = type,
                                          .outer = {3},
                                          .num_classes = num_classes,
                                          .inner = {inner},
                                          .class_weights = num_classes == 100,
                                          .ignore_some = true},
                                         random);
      std::get<CrossEntropy>(batch.spec.loss).label_smoothing = smoothing;
      for (int64_t first = 0; first + 16 <= count; first += 1999) testing::SpoilRows(batch, num_classes, inner, first);
      batch.spec.outputs = {Output::kLogitsGradient};
      const Outcome whole = testing::Evaluate(batch).value();
      ASSERT_GE(whole.plan.num_blocks, 9);
      ASSERT_GT(whole.plan.run_blocks, 1);
      batch.spec.outputs.Add(Output::kEntropy);  // where nothing is copied ahead
      const Outcome more = testing::Evaluate(batch).value();
      const std::string alone = more.results.loss.Bits() + more.results.logits_gradient.Bits();
      for (const auto& [run, stream, misalignment] :
           {std::tuple(1, false, 0), {1, true, 0}, {2, false, 8}, {3, true, 0}, {99, true, 8}, {99, false, 0}}) {
        EXPECT_EQ(BitsInRuns(batch, whole, run, stream, misalignment) == alone, true)
            << target << ' ' << Name(type) << ' ' << num_classes << ' ' << run << ' ' << misalignment;
      }
      for (const bool stream : {false, true}) {
        EXPECT_EQ(BitsInPlace(batch, whole, stream) == alone, true)
            << target << ' ' << Name(type) << ' ' << num_classes;
      }
    }
  });
}

// A row that is so long that threads share it.
TEST(InvarianceTest, AnyNumberOfThreadsToALongRow) {
  std::mt19937_64 random(4);
  for (const auto& [type, targets, inner, stream] : {std::tuple(DataType::kFloat32, DataType::kInt64, 1, true),
                                                     {DataType::kFloat32, DataType::kFloat32, 1, false},
                                                     {DataType::kFloat64, DataType::kInt64, 1, false},
                                                     {DataType::kBfloat16, DataType::kInt64, 2, false},
                                                     {DataType::kFloat16, DataType::kInt64, 1, true}}) {
    Batch batch = testing::RandomBatch({.type = type,
                                        .target_type = targets,
                                        .outer = {2},
                                        .num_classes = 3 * kRowPart + 1003,
                                        .inner = inner > 1 ? Shape{inner} : Shape{},
                                        .class_weights = true},
                                       random);
    auto& loss = std::get<CrossEntropy>(batch.spec.loss);
    loss.label_smoothing = 0.1;
    if (type == DataType::kFloat16) loss.softcap = 20;
    batch.spec.outputs = {Output::kLogitsGradient, Output::kElementLoss, Output::kLogProbabilities,
                          Output::kProbabilities, Output::kPredictedClass};
    if (IsFloat(targets)) batch.spec.outputs.Add(Output::kTargetsGradient);
    SCOPED_TRACE(absl::StrCat(Name(type), ", targets ", Name(targets)));
    const Outcome alone = testing::Evaluate(batch, 1).value(), together = testing::Evaluate(batch, 3).value();
    ForEachResult(
        [&](const char* name, const OwnedTensor& one, const OwnedTensor& many) {
          if (!one.type()) return;
          EXPECT_EQ(one.Bits() == many.Bits(), true) << name;
        },
        alone.results, together.results);
    batch.spec.outputs = {Output::kLogitsGradient};
    const Outcome gradient = testing::Evaluate(batch, 3).value();
    const std::string bits = alone.results.loss.Bits() + alone.results.logits_gradient.Bits();
    EXPECT_EQ(gradient.results.loss.Bits() + gradient.results.logits_gradient.Bits() == bits, true);
    EXPECT_EQ(BitsInRuns(batch, gradient, 1, stream, 0) == bits, true);
  }
}

TEST(InvarianceTest, AnyChunksInAnyOrder) {
  for (DataType type : {DataType::kFloat32, DataType::kFloat64, DataType::kFloat16, DataType::kBfloat16}) {
    ExpectChunksEqualWhole(WholeBatch(DataType::kInt64, type));
  }
}

// A batch cut at the ends of segments has the very bits of the whole: not its rows only, but its loss too.
TEST(InvarianceTest, SegmentsAddUpToTheWhole) {
  std::mt19937_64 random(8);
  for (const int64_t num_classes : {3, 77, 5000}) {
    Batch batch = testing::RandomBatch({.outer = {kRows * 2000 / num_classes}, .num_classes = num_classes}, random);
    batch.spec.outputs = {Output::kLogitsGradient};
    const Outcome whole = testing::Evaluate(batch).value();
    const int64_t rows = batch.logits.type().shape[0], segment = whole.plan.segment_elements;
    ASSERT_GT(rows, segment);
    ASSERT_EQ(segment % whole.plan.block_elements, 0);
    double loss_sum = 0;
    for (int64_t first = 0; first < rows; first += segment) {
      const int64_t count = std::min(segment, rows - first);
      const auto part_of = [&](const OwnedTensor& tensor) {
        Shape shape{count};
        if (tensor.type().shape.rank() == 2) shape.push_back(num_classes);
        OwnedTensor part({tensor.type().data_type, shape});
        const int64_t row_bytes = tensor.size() / rows * SizeOf(tensor.type().data_type);
        std::memcpy(part.data(), tensor.data() + first * row_bytes, static_cast<size_t>(count * row_bytes));
        return part;
      };
      Batch part;
      part.spec = batch.spec;
      part.spec.normalizer = whole.summary.weight_sum;
      part.logits = part_of(batch.logits);
      part.targets = part_of(batch.targets);
      const Outcome outcome = testing::Evaluate(part).value();
      EXPECT_EQ(outcome.plan.segment_elements, segment);
      EXPECT_EQ(outcome.results.logits_gradient.Bits(), part_of(whole.results.logits_gradient).Bits());
      loss_sum += outcome.summary.loss_sum;
    }
    EXPECT_EQ(loss_sum, whole.summary.loss_sum) << num_classes;
  }
}

// [rows, classes] as [classes, rows].
OwnedTensor Transposed(const OwnedTensor& tensor) {
  const int64_t count = tensor.type().shape[0], num_classes = tensor.type().shape[1];
  OwnedTensor columns({tensor.type().data_type, {num_classes, count}});
  for (int64_t i = 0; i < count * num_classes; ++i) {
    columns.set(i % num_classes * count + i / num_classes, tensor.at(i));
  }
  return columns;
}

// `rows`: [rows, classes], evaluated with the classes last and, transposed, first.
void ExpectTransposedEquals(Batch rows, const std::string& name) {
  rows.spec.outputs = {Output::kLogitsGradient, Output::kElementLoss};
  Batch columns;
  columns.spec = rows.spec;
  std::get<CrossEntropy>(columns.spec.loss).class_axis = 0;
  columns.logits = Transposed(rows.logits);
  columns.targets = rows.targets.type().shape.rank() == 2 ? Transposed(rows.targets) : rows.targets;
  columns.class_weights = rows.class_weights;
  columns.upstream_gradient = rows.upstream_gradient;
  const Outcome a = testing::Evaluate(rows).value(), b = testing::Evaluate(columns).value();
  EXPECT_EQ(a.results.element_loss.Bits(), b.results.element_loss.Bits()) << name;
  EXPECT_EQ(Transposed(a.results.logits_gradient).Bits(), b.results.logits_gradient.Bits()) << name;
}

TEST(InvarianceTest, AnyLayout) {
  constexpr DataType kTypes[] = {DataType::kFloat32, DataType::kFloat64, DataType::kFloat16, DataType::kBfloat16};
  testing::ForEachSimdTarget([&](const char* target) {
    for (int64_t num_classes : {2, 61, 77, 128, 129, 507}) {
      for (DataType type : kTypes) {
        for (DataType gradient : kTypes) {
          for (const double smoothing : {0.0, 0.1}) {
            for (const double temperature : {1.0, 1.7}) {
              std::mt19937_64 random(5);
              Batch rows = testing::RandomBatch(
                  {.type = type, .outer = {35}, .num_classes = num_classes, .class_weights = smoothing != 0}, random);
              rows.spec.loss = CrossEntropy{.label_smoothing = smoothing, .temperature = temperature};
              rows.spec.gradient_type = gradient;
              ExpectTransposedEquals(std::move(rows), absl::StrCat(target, " ", num_classes, " ", Name(type), " ",
                                                                   Name(gradient), " over ", temperature));
            }
          }
        }
      }
    }
  });
}

// What no float coefficient holds is computed in double, in every layout with the same roundings.
TEST(InvarianceTest, AnyLayoutOfExtremeGradients) {
  testing::ForEachSimdTarget([&](const char* target) {
    for (const double upstream : {1e20, 1e35, 1e-20, 1e-35}) {
      std::mt19937_64 random(7);
      Batch rows = testing::RandomBatch({.type = DataType::kBfloat16, .outer = {16000}, .num_classes = 33}, random);
      rows.targets = OwnedTensor({DataType::kFloat32, {16000, 33}});
      for (int64_t i = 0; i < 16000 * 33; ++i) rows.targets.set(i, static_cast<double>(i % 7) / 99);
      rows.spec.loss = CrossEntropy();
      rows.upstream_gradient = OwnedTensor::Doubles({}, {upstream});
      ExpectTransposedEquals(std::move(rows), absl::StrCat(target, " ", upstream));
    }
  });
}

TEST(InvarianceTest, AnyAlignment) {
  testing::ForEachSimdTarget([](const char* target) {
    std::string first;
    for (int misalignment : {0, 4, 8, 20, 60}) {
      std::mt19937_64 random(4);
      Batch batch = testing::RandomBatch({.num_classes = 301, .misalignment = misalignment}, random);
      batch.spec.outputs = {Output::kLogitsGradient};
      const std::string bits = testing::Evaluate(batch)->results.logits_gradient.Bits();
      if (first.empty()) first = bits;
      EXPECT_EQ(bits, first) << target << ' ' << misalignment;
    }
  });
}

}  // namespace
}  // namespace lossd
