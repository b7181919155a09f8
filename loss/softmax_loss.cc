// Every softmax loss: a tile of rows in, reduce, decide (decide.h), scatter, a tile of rows out.
// Notation of row.h: points h_k, background t; g is the element's upstream gradient.
#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <span>
#include <utility>

#include "loss/column.h"
#include "loss/converted.h"
#include "loss/decide.h"
#include "loss/elementary.h"
#include "loss/evaluate.h"
#include "loss/plain_elements.h"
#include "loss/row.h"
#include "loss/scratch.h"
#include "loss/tile.h"

namespace lossd {
namespace {

// Rows that the kernels read as S.
template <typename S>
class SoftmaxLoss {
  using T = ComputeType<S>;

 public:
  SoftmaxLoss(Block& block, const ScratchLayout& layout)
      : block_(block), plan_(block.plan), results_(block.results), options_(plan_.cross_entropy), layout_(layout) {
    const TensorView& weights = block.inputs.class_weights;
    if (weights) class_weights_ = Rows<T>(weights, {0, 1, 1, plan_.num_classes}, layout_.class_weights);
    const double e = options_.label_smoothing;
    background_ = {0, nullptr, e / static_cast<double>(plan_.num_classes), class_weights_};
    if (plan_.target_kind == TargetKind::kProbabilities) background_.alpha = 1 - e;
    reads_every_row_ = results_.log_sum_exp || results_.predicted_class || results_.entropy || results_.probabilities ||
                       results_.log_probabilities;
    plain_ = !layout_.whole_rows && PlainElements::AreEnough(block_);
  }

  void Run() {
    block_.ForEach([this] { EvaluateTiles(); });
    WritePending();
    if (plan_.stream_gradient) FlushStreams();
  }

 private:
  void EvaluateTiles() {
    for (int64_t element = block_.begin; element < block_.end;) {
      const int64_t inner = plan_.inner_size;
      int64_t count = std::min(layout_.tile_elements, block_.end - element);
      if (inner > 1) count = std::min(count, inner - element % inner);
      const TileRange range{plan_.RowStart(element), inner, count, plan_.num_classes};
      if (layout_.layout == RowLayout::kColumns) {
        EvaluateColumns(element, range);
      } else {
        EvaluateRows(element, range);
      }
      element += count;
    }
  }

  template <typename U>
  U* Part(int64_t offset) {
    return reinterpret_cast<U*>(block_.scratch + offset);
  }

  // The rows of a tensor: where they are, or copied to their part of the scratch.
  template <typename U>
  const U* Rows(const TensorView& tensor, const TileRange& range, int64_t part) {
    if (part == ScratchLayout::kInPlace) return static_cast<const U*>(tensor.data) + range.base;
    ReadTile(tensor, range, Part<U>(part));
    return Part<U>(part);
  }

  // The same of the logits, as the kernels read them.
  const S* LogitRows(const TileRange& range, int64_t part) {
    if (!layout_.converted) return Rows<S>(block_.inputs.logits, range, part);
    converted_.Read(range, Part<S>(part));
    return Part<S>(part);
  }

  // Where to write the rows of a tensor, null if it is absent; FinishRows() takes them there.
  T* OutputRows(const MutableTensorView& tensor, const TileRange& range, int64_t part) {
    if (!tensor) return nullptr;
    return part == ScratchLayout::kInPlace ? static_cast<T*>(tensor.data) + range.base : Part<T>(part);
  }
  void FinishRows(const MutableTensorView& tensor, const TileRange& range, const T* rows, int64_t part) {
    if (rows != nullptr && part != ScratchLayout::kInPlace) WriteTile(rows, range, tensor);
  }

  void FindIgnored(int64_t first, int64_t count) {
    for (int64_t row = 0; row < count; ++row) {
      ignored_[row] = plain_ ? elements_.target(row) < 0 : IsIgnored(plan_, block_.inputs, first + row);
      if (ignored_[row]) sums_[row] = {};  // where a row may be skipped
    }
  }

  // ---- by rows ----

  void EvaluateRows(int64_t first, const TileRange& range) {
    PlainTargets plain;
    if (plain_) plain = elements_.Read(first, range.count, background_.beta);
    FindIgnored(first, range.count);
    const int64_t num_classes = plan_.num_classes;
    const bool dense = plan_.target_kind == TargetKind::kProbabilities;
    const PieceReader* const pieces = block_.inputs.logits.pieces;
    const RowSource<S> x = pieces != nullptr ? RowSource<S>(pieces, range.base) : LogitRows(range, layout_.logits);
    Background<T> background = background_;
    if (dense) background.probabilities = Rows<T>(block_.inputs.targets, range, layout_.targets);
    dense_targets_ = background.probabilities;
    RowRange<S> rows{x, num_classes, range.count, reads_every_row_ ? nullptr : ignored_};
    rows.temperature = layout_.temperature;
    if (layout_.kept != ScratchLayout::kInPlace) rows.kept = Part<std::byte>(layout_.kept);
    rows.finds_argmax = static_cast<bool>(results_.predicted_class);
    ReduceTile(rows, background);
    const auto logit_at = [&](int64_t row, int64_t c) { return x.At(row * num_classes + c) / layout_.temperature; };
    if (plain_) {
      DecidePlainTile(first, range.count, plain, logit_at);
    } else {
      DecideTile(first, range.count, logit_at);
    }
    if (layout_.whole_rows) WriteWholeRows(first, range, x.data);
    if (!results_.logits_gradient) return;
    for (int64_t row = 0; row < range.count; ++row) {
      gradients_[row].temperature = layout_.temperature;
      gradients_[row].stream = plan_.stream_gradient && layout_.logits_gradient == ScratchLayout::kInPlace;
      gradients_[row].shared = layout_.pending ? &shared_ : nullptr;  // what is not, threads may share
      gradients_[row].kept = rows.Kept(row);
    }
    if (layout_.pending) {
      pending_ = {x, gradients_, static_cast<S*>(results_.logits_gradient.data) + range.base, range.count};
      return;  // written while the next tile is read
    }
    WriteGradientRows(range, x.data);
  }

  // body(first, size, i) for the i-th part of a row, on any threads. What they stream has arrived when it returns.
  template <typename Body>
  void ForEachPart(const Body& body) const {
    const int64_t num_classes = plan_.num_classes;
    if (num_classes <= kRowPart) return body(0, num_classes, 0);
    block_.parallel_for(layout_.num_parts, [&](int64_t i) {
      body(i * kRowPart, std::min(kRowPart, num_classes - i * kRowPart), i);
      if (plan_.stream_gradient) FlushStreams();
    });
  }

  void ReduceTile(const RowRange<S>& rows, const Background<T>& background) {
    const int64_t num_classes = plan_.num_classes;
    if (num_classes <= kRowPart) return kernels_.reduce(rows, background, std::exchange(pending_, {}), sums_);
    const std::span<RowSums> parts(Part<RowSums>(layout_.parts), static_cast<size_t>(layout_.num_parts));
    for (int64_t row = 0; row < rows.count; ++row) {
      if (rows.skipped != nullptr && rows.skipped[row]) continue;
      Background<T> b = background;
      if (b.probabilities != nullptr) b.probabilities += row * num_classes;
      ForEachPart([&](int64_t first, int64_t size, int64_t i) {
        RowSums sums;  // not among its neighbours, which other threads are writing
        kernels_.reduce(rows.PartOf(row, first, size), b.From(first), {}, &sums);
        parts[static_cast<size_t>(i)] = sums;
      });
      RowSums& sums = sums_[row] = {.max = -std::numeric_limits<double>::infinity()};
      for (int64_t i = 0; i < layout_.num_parts; ++i) Fold(parts[static_cast<size_t>(i)], i * kRowPart, sums);
      sums.others = WithoutDust<T>(sums.others, num_classes);
    }
  }

  void WritePending() {
    for (int64_t row = 0, offset = 0; row < pending_.count; ++row, offset += plan_.num_classes) {
      kernels_.scatter(pending_.x.From(offset), 0, plan_.num_classes, pending_.gradients[row], pending_.dx + offset);
    }
    shared_.Flush();
  }

  void WriteGradientRows(const TileRange& range, const S* x) {
    const int64_t num_classes = plan_.num_classes;
    const MutableTensorView& gradient = results_.logits_gradient;
    const auto scatter = [&](auto kernel, auto* dx) {
      for (int64_t row = 0; row < range.count; ++row) {
        ForEachPart([&](int64_t part, int64_t size, int64_t) {
          kernel(x + row * num_classes, part, size, gradients_[row], dx + row * num_classes);
        });
      }
    };
    if (layout_.logits_gradient == ScratchLayout::kInPlace && gradient.type.data_type == layout_.row_type) {
      return scatter(kernels_.scatter, static_cast<S*>(gradient.data) + range.base);
    }
    T* rows = OutputRows(gradient, range, layout_.logits_gradient);
    scatter(kernels_.scatter_wide, rows);
    converted_.Chain(range, rows);
    FinishRows(gradient, range, rows, layout_.logits_gradient);
  }

  // Outputs of every class but the logits' gradient.
  void WriteWholeRows(int64_t first, const TileRange& range, const S* x) {
    T* probabilities = OutputRows(results_.probabilities, range, layout_.probabilities);
    T* log_probabilities = OutputRows(results_.log_probabilities, range, layout_.log_probabilities);
    const bool dense = plan_.target_kind == TargetKind::kProbabilities;
    T* slopes = dense ? OutputRows(results_.targets_gradient, range, layout_.targets_gradient) : nullptr;
    for (int64_t row = 0; row < range.count; ++row) {
      const Softmax softmax(sums_[row], log_denominators_[row]);
      const int64_t offset = row * plan_.num_classes;
      const S* const row_x = x + offset;
      if (results_.entropy) WriteEntropy(first + row, row_x, softmax);
      // What rounding would raise above 1.
      const Point largest{.target = sums_[row].argmax, .value = softmax.Probability(1)};
      const Gradient<T> probability{.max = softmax.max(),
                                    .temperature = layout_.temperature,
                                    .p_scale = largest.value,
                                    .points = {&largest, softmax.is_sure() ? size_t{1} : size_t{0}}};
      const double g = slopes == nullptr || ignored_[row] ? 0 : block_.Upstream(first + row);
      ForEachPart([&](int64_t part, int64_t size, int64_t) {
        if (probabilities != nullptr) kernels_.scatter_wide(row_x, part, size, probability, probabilities + offset);
        if (log_probabilities != nullptr) {
          kernels_.log_softmax(row_x + part, size, softmax.max(), softmax.log_denominator(), layout_.temperature,
                               log_probabilities + offset + part);
        }
        for (int64_t c = part; slopes != nullptr && c < part + size; ++c) {
          const double logit = ToDouble(LoadElement<S>(row_x, c)) / layout_.temperature;
          slopes[offset + c] = ignored_[row] ? T{0} : static_cast<T>(TargetSlope(c, g, softmax, logit));
        }
      });
    }
    FinishRows(results_.probabilities, range, probabilities, layout_.probabilities);
    FinishRows(results_.log_probabilities, range, log_probabilities, layout_.log_probabilities);
    FinishRows(results_.targets_gradient, range, slopes, layout_.targets_gradient);
  }

  void WriteEntropy(int64_t element, const S* x, const Softmax& softmax) {
    const double sum = kernels_.entropy_sum(x, plan_.num_classes, softmax.max(), layout_.temperature);
    const double entropy = softmax.log_denominator() + sum / softmax.denominator();
    StoreFloat(results_.entropy, element, plan_.unit_scale * (softmax.is_nan() ? kNan : entropy));
  }

  // ---- by columns ----

  void EvaluateColumns(int64_t first, const TileRange& range) {
    const int64_t num_classes = plan_.num_classes, count = range.count, stride = ScratchLayout::ColumnStride(count);
    T* columns = ColumnsOf(turn_);
    if (layout_.copied) turn_ = 1 - turn_;
    if (copied_ != first) ReadColumns(range, columns);
    if (plain_ && to_skip_ > 0) {
      --to_skip_;
      elements_.Read(first, count, background_.beta);
    } else if (plain_) {
      const PlainResult result = EvaluatePlain(first, range, columns);
      if (result == PlainResult::kColumns) WriteColumns(range, columns);
      if (result != PlainResult::kSpoilt) return skipped_ = 0, void();
      to_skip_ = skipped_ = std::min<int64_t>(2 * skipped_ + 1, 31);
      ReadColumns(range, columns);
    }
    FindIgnored(first, count);
    column_kernels_.reduce(columns, stride, num_classes, count, background_, sums_);
    DecideTile(first, count, [&](int64_t row, int64_t c) { return static_cast<double>(columns[c * stride + row]); });
    if (layout_.whole_rows) {
      const bool read = layout_.converted && range.stride == 1;  // for the columns
      WriteWholeRows(first, range, read ? Part<S>(layout_.logits) : LogitRows(range, layout_.rows));
    }
    if (!results_.logits_gradient) return;
    column_kernels_.scatter(columns, stride, num_classes, count, gradients_, columns);
    for (int64_t row = 0; row < count; ++row) {
      for (const Point& p : gradients_[row].points) columns[p.target * stride + row] = static_cast<T>(p.value);
    }
    WriteColumns(range, columns);
  }

  // Where the copy of a tile goes: tiles take turns where the next is copied meanwhile.
  T* ColumnsOf(int64_t turn) { return Part<T>(layout_.columns + turn * layout_.columns_bytes); }

  // Whether the tile that follows, in this block or the next, is as large as this one, and can be copied meanwhile.
  bool HasNext(int64_t first, const TileRange& range) const {
    const int64_t next = first + range.count, after = next + range.count;
    const bool whole = after <= block_.end || (next == block_.end && after <= run_end_);
    return layout_.copied && range.count == layout_.tile_elements && range.count % kColumnLanes == 0 &&
           first % range.stride + 2 * range.count <= range.stride && whole;
  }

  // Everything of a plain tile but what ReadColumns() and, where the answer is kColumns, WriteColumns() do.
  enum class PlainResult : uint8_t { kSpoilt, kColumns, kWritten };
  PlainResult EvaluatePlain(int64_t first, const TileRange& range, T* columns) {
    std::array<int64_t, kTile> predicted;
    PlainTile<T> tile = {.x = columns,
                         .stride = ScratchLayout::ColumnStride(range.count),
                         .num_classes = plan_.num_classes,
                         .count = range.count,
                         .targets = elements_.Read(first, range.count, background_.beta),
                         .background = background_,
                         .predicted = results_.predicted_class && !layout_.modified ? predicted.data() : nullptr};
    if (results_.predicted_class && layout_.modified) {  // before a gradient may be written over the logits
      PredictClasses(block_.inputs.logits, range.base, range.num_classes, range.stride, range.count, predicted.data());
    }
    SetGradient(range, tile);
    if (HasNext(first, range)) {
      copied_ = first + range.count;
      tile.next = static_cast<const T*>(block_.inputs.logits.data) + range.base + range.count;
      tile.next_stride = range.stride;
      tile.copy = ColumnsOf(turn_);
    }
    if (!column_kernels_.plain(tile)) return PlainResult::kSpoilt;
    elements_.Record([&](int64_t row) { return predicted[row]; });
    return tile.dx == columns ? PlainResult::kColumns : PlainResult::kWritten;
  }

  // Where a plain tile's gradient goes, if that is asked for: to its place if whole vectors fit there.
  void SetGradient(const TileRange& range, PlainTile<T>& tile) const {
    const MutableTensorView& gradient = results_.logits_gradient;
    if (!gradient) return;
    tile.dx = tile.x;
    tile.dx_stride = tile.stride;
    if (range.stride == 1 || layout_.chained) return;
    if (gradient.type.data_type != kDataTypeOf<T> || range.count % kColumnLanes != 0) return;
    T* const dx = static_cast<T*>(gradient.data) + range.base;
    const auto aligned = [](auto bytes) { return bytes % ScratchLayout::kAlignment == 0; };
    if (plan_.stream_gradient &&
        !(aligned(reinterpret_cast<intptr_t>(dx)) && aligned(range.stride * static_cast<int64_t>(sizeof(T))))) {
      return;
    }
    tile.dx = dx;
    tile.dx_stride = range.stride;
    tile.stream = plan_.stream_gradient;
  }

  // A copy of the logits, [num_classes, ColumnStride(count)].
  void ReadColumns(const TileRange& range, T* columns) {
    const S* x = static_cast<const S*>(block_.inputs.logits.data) + range.base;
    const int64_t stride = ScratchLayout::ColumnStride(range.count);
    if (range.stride == 1) {
      const void* rows = x;
      if (layout_.converted) {
        rows = LogitRows(range, layout_.logits);
      } else if constexpr (!std::is_same_v<S, T>) {
        kernels_.widen(x, range.count * range.num_classes, Part<T>(layout_.logits));
        rows = Part<T>(layout_.logits);
      }
      return column_kernels_.from_rows(static_cast<const T*>(rows), range.num_classes, range.count, stride, columns);
    }
    for (int64_t c = 0; c < range.num_classes; ++c) {
      if (layout_.converted) {
        ChunkBuffer chunk;
        converted_.Read(range.base + c * range.stride, range.count, chunk);
        CopyToTile(chunk, 1, range.count, columns + c * stride);
        continue;
      }
      FetchClassesAhead(x, c, range);
      kernels_.widen(x + c * range.stride, range.count, columns + c * stride);
    }
  }

  // To the logits' gradient, if that is asked for.
  void WriteColumns(const TileRange& range, const T* columns) {
    const MutableTensorView& gradient = results_.logits_gradient;
    if (!gradient) return;
    const bool as_stored = gradient.type.data_type == layout_.row_type;
    const int64_t stride = ScratchLayout::ColumnStride(range.count);
    if (range.stride == 1) {
      T* rows = OutputRows(gradient, range, layout_.logits_gradient);
      column_kernels_.to_rows(columns, stride, range.num_classes, range.count, rows);
      if (layout_.logits_gradient == ScratchLayout::kInPlace) return;
      converted_.Chain(range, rows);
      if (!as_stored) return WriteTile(rows, range, gradient);
      kernels_.narrow(rows, range.count * range.num_classes, false, static_cast<S*>(gradient.data) + range.base);
      return;
    }
    const bool wide_enough = gradient.type.data_type == kDataTypeOf<T>;
    for (int64_t c = 0; c < range.num_classes; ++c) {
      const T* from = columns + c * stride;
      const int64_t to = range.base + c * range.stride;
      if (as_stored && !layout_.chained) {
        kernels_.narrow(from, range.count, plan_.stream_gradient, static_cast<S*>(gradient.data) + to);
      } else if (wide_enough && !layout_.chained) {
        wide_kernels_.narrow(from, range.count, plan_.stream_gradient, static_cast<T*>(gradient.data) + to);
      } else {
        ChunkBuffer chunk;
        CopyFromTile(from, 1, range.count, chunk);
        converted_.Chain(to, range.count, chunk);
        Narrow(chunk, range.count, plan_.stream_gradient, gradient, to);
      }
    }
  }

  // ---- decide ----

  // DecideTile() of plain rows.
  template <typename LogitAt>
  void DecidePlainTile(int64_t first, int64_t count, const PlainTargets& targets, const LogitAt& logit_at) {
    const bool gradient = static_cast<bool>(results_.logits_gradient);
    PlainRows rows;
    for (int64_t row = 0; row < count; ++row) {
      rows.max[row] = sums_[row].max;
      rows.others[row] = sums_[row].others;
      rows.background[row] = sums_[row].background;
      rows.background_dot[row] = sums_[row].background_dot;
      rows.logits[row] = ignored_[row] ? 0 : logit_at(row, targets.targets[row]);
    }
    DecidePlainRows(count, gradient, targets, rows);
    elements_.Record([&](int64_t row) { return PredictedClass(first + row, sums_[row]); });
    for (int64_t row = 0; gradient && row < count; ++row) {
      Point* const point = Part<Point>(layout_.points) + row;
      *point = {targets.targets[row], rows.points[row]};
      // One by one: a whole that was just put together of parts is slow to read.
      Gradient<T>& g = gradients_[row];
      g.max = rows.max[row];
      g.p_scale = rows.p_scales[row];
      g.t_scale = ignored_[row] ? 0 : targets.upstream[row];
      g.background = background_;
      g.points = {point, ignored_[row] ? size_t{0} : size_t{1}};
    }
  }

  // From sums_ to all that is one value an element, and gradients_. logit_at(row, c) is x_c.
  template <typename LogitAt>
  void DecideTile(int64_t first, int64_t count, const LogitAt& logit_at) {
    for (int64_t row = 0; row < count; ++row) {
      log_denominators_[row] = sums_[row].others;
      gradients_[row] = {.background = background_};
      if (dense_targets_) gradients_[row].background.probabilities = dense_targets_ + row * plan_.num_classes;
      points_[row] = ignored_[row] ? std::span<Point>() : PointsOf(first + row, row);
    }
    Log1pAll(log_denominators_, count, log_denominators_);
    if (results_.logits_gradient || IsModified(options_)) FindExps(count, logit_at);
    for (int64_t row = 0; row < count; ++row) {
      if (ignored_[row]) WriteIgnored(first + row);
      if (ignored_[row] && !reads_every_row_) continue;
      DecideRow(first + row, row, [&](int64_t c) { return logit_at(row, c); });
    }
  }

  // Point::exp of all points.
  template <typename LogitAt>
  void FindExps(int64_t count, const LogitAt& logit_at) {
    std::array<double, kTile> exps;
    const int64_t most = std::max<int64_t>(plan_.sparse_size, 1);
    for (int64_t k = 0; k < most; ++k) {  // the k-th point of each row
      const auto has = [&](int64_t row) { return k < static_cast<int64_t>(points_[row].size()); };
      for (int64_t row = 0; row < count; ++row) {
        exps[row] = has(row) ? logit_at(row, points_[row][k].target) - sums_[row].max : 0;
      }
      ExpAll(exps.data(), count, exps.data());
      for (int64_t row = 0; row < count; ++row) {
        if (has(row)) points_[row][k].exp = exps[row];
      }
    }
  }

  template <typename LogitAt>
  void DecideRow(int64_t element, int64_t row, const LogitAt& logit_at) {
    const RowSums& sums = sums_[row];
    const Softmax softmax(sums, log_denominators_[row]);
    const std::span<Point> points = points_[row];
    if (results_.log_sum_exp) StoreFloat(results_.log_sum_exp, element, softmax.LogSumExp());
    if (results_.predicted_class) WritePredictedClass(element, sums, points);
    if (ignored_[row]) return;
    if (results_.target_log_probability) {
      StoreFloat(results_.target_log_probability, element, softmax.LogProbability(logit_at(points[0].target)));
    }
    const Decision decision = Decide(options_, sums, softmax, logit_at, points);
    block_.AddLoss(element, decision.loss);
    if (!results_.logits_gradient && !results_.targets_gradient) return;
    const double g = block_.Upstream(element);
    if (plan_.target_kind == TargetKind::kSparseProbabilities) WriteSparseSlopes(element, softmax, g, logit_at);
    if (!results_.logits_gradient) return;
    DecideGradient(decision, softmax, g / options_.temperature, points, gradients_[row]);
    if (dense_targets_ && softmax.is_sure()) gradients_[row].points = LargestOf(row, decision, softmax);
  }

  // Of dense probabilities: the entry of the class that has more than two thirds, which is no difference to be rounded.
  std::span<Point> LargestOf(int64_t row, const Decision& decision, const Softmax& softmax) {
    Point* const point = Part<Point>(layout_.points) + row;
    const double t = gradients_[row].background.At(sums_[row].argmax);
    *point = {sums_[row].argmax, gradients_[row].t_scale * EntryOf(softmax, decision.p_factor, 1, t)};
    return {point, 1};
  }

  // The element's points by class, each class once.
  std::span<Point> PointsOf(int64_t element, int64_t row) {
    if (plan_.target_kind == TargetKind::kProbabilities) return {};
    Point* const points = Part<Point>(layout_.points) + row * std::max<int64_t>(plan_.sparse_size, 1);
    int64_t count = 0;
    const TensorView& masses = block_.inputs.target_probabilities;
    VisitTargets(element, [&](int64_t position, int64_t target) {
      const double q = masses ? FloatAt(masses, position) : 1;
      points[count++] = {target, (1 - options_.label_smoothing) * ClassWeight(block_.inputs, target) * q};
    });
    return MergePoints({points, static_cast<size_t>(count)});
  }

  template <typename Visit>
  void VisitTargets(int64_t element, const Visit& visit) const {
    ForEachTarget(plan_, block_.inputs, element, [&visit](int64_t position, int64_t target) {
      visit(position, target);
      return true;
    });
  }

  // Everything that depends on the targets, of an element that counts nowhere; its gradient stays 0.
  void WriteIgnored(int64_t element) {
    block_.AddIgnored(element);
    if (results_.target_log_probability) StoreFloat(results_.target_log_probability, element, 0);
    if (plan_.target_kind == TargetKind::kSparseProbabilities) ZeroSparseSlopes(element);
  }

  int64_t PredictedClass(int64_t element, const RowSums& sums) const {
    if (layout_.modified) return block_.PredictedClass(element);
    return std::isnan(sums.others) ? -1 : sums.argmax;
  }

  // `points` are empty for a row that counts nowhere.
  void WritePredictedClass(int64_t element, const RowSums& sums, std::span<const Point> points) {
    const int64_t predicted = PredictedClass(element, sums);
    StoreElement(results_.predicted_class.data, element, predicted);
    const bool index = !points.empty() && plan_.target_kind == TargetKind::kClassIndices;
    if (index && predicted == points[0].target) ++block_.summary.correct_count;
  }

  // A point's entry is -g (h (1 - p) - (p_factor + other points) p + t), precise where p is near 1. `g` is over the
  // temperature, as every entry is.
  void DecideGradient(const Decision& decision, const Softmax& softmax, double g, std::span<Point> points,
                      Gradient<T>& gradient) {
    if (softmax.is_nan() || std::isnan(g)) {
      gradient.p_scale = kNan;
      return;
    }
    double point_mass = 0;
    for (const Point& point : points) point_mass += point.value;
    for (Point& point : points) {
      const double others = points.size() == 1 ? 0 : point_mass - point.value;  // where a mass is infinite too
      const double push = (decision.p_factor + others) * softmax.Probability(point.exp);
      const double t = background_.beta == 0 ? 0 : background_.beta * ClassWeight(block_.inputs, point.target);
      point.value = g * (push - t - point.value * softmax.Complement(point.exp));
    }
    gradient.max = softmax.max();
    gradient.p_scale = g * (decision.p_factor + point_mass) / softmax.denominator();
    if (std::isnan(gradient.p_scale)) gradient.p_scale = kNan;  // whichever it came from
    gradient.t_scale = g;
    gradient.points = points;
  }

  // dloss/dq_c = -g (1-e) w_c ln p_c.
  double TargetSlope(int64_t c, double g, const Softmax& softmax, double logit) const {
    const double factor = g * (1 - options_.label_smoothing) * ClassWeight(block_.inputs, c);
    return CrossTerm(factor, softmax.LogProbability(logit));
  }

  template <typename LogitAt>
  void WriteSparseSlopes(int64_t element, const Softmax& softmax, double g, const LogitAt& logit_at) {
    if (!results_.targets_gradient) return;
    ZeroSparseSlopes(element);
    VisitTargets(element, [&](int64_t position, int64_t target) {
      StoreFloat(results_.targets_gradient, position, TargetSlope(target, g, softmax, logit_at(target)));
    });
  }

  void ZeroSparseSlopes(int64_t element) {
    if (!results_.targets_gradient) return;
    for (int64_t k = 0; k < plan_.sparse_size; ++k) {
      StoreFloat(results_.targets_gradient, element * plan_.sparse_size + k, 0);
    }
  }

  static constexpr size_t kTile = ScratchLayout::kMaxTileElements;

  Block& block_;
  const Plan& plan_;
  const Results& results_;
  const CrossEntropy& options_;
  const ScratchLayout& layout_;
  const ConvertedLogits converted_{block_.inputs.logits, options_};
  const RowKernels<S> kernels_ = RowKernelsOf<S>();
  const RowKernels<T> wide_kernels_ = RowKernelsOf<T>();
  const ColumnKernels<T> column_kernels_ = ColumnKernelsOf<T>();
  const T* class_weights_ = nullptr;
  Background<T> background_;          // of every row, but for its probabilities
  const T* dense_targets_ = nullptr;  // of the tile
  bool reads_every_row_ = false;
  bool plain_ = false;
  PlainElements elements_{block_};
  PendingRows<S> pending_;
  SharedLine shared_;
  const int64_t run_end_ = plan_.ElementsOf(block_.blocks.end - 1).end;
  int64_t copied_ = -1;  // the first element of the tile that was copied while the one before was computed
  int64_t turn_ = 0;     // whose copy goes where
  // Where one tile is spoilt, the next may be: so many are not taken for plain, twice as many each time.
  int64_t to_skip_ = 0, skipped_ = 0;

  // Of the rows of a tile.
  bool* const ignored_ = Part<bool>(layout_.ignored);
  RowSums* const sums_ = Part<RowSums>(layout_.sums);
  double* const log_denominators_ = Part<double>(layout_.log_denominators);
  std::span<Point>* const points_ = Part<std::span<Point>>(layout_.points_of_rows);
  Gradient<T>* const gradients_ = Part<Gradient<T>>(layout_.gradients);
};

}  // namespace

void EvaluateSoftmaxLoss(Block& block) {
  const ScratchLayout layout(block.plan);
  WithFloatType(layout.row_type, [&]<typename S>(S) { SoftmaxLoss<S>(block, layout).Run(); });
}

}  // namespace lossd
