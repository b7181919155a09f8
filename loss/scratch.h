// How a plan's rows are taken to the kernels, and where what is needed for one tile of them is kept. Internal to loss/.
#ifndef LOSSD_LOSS_SCRATCH_H_
#define LOSSD_LOSS_SCRATCH_H_

#include <algorithm>
#include <cstdint>
#include <span>

#include "loss/column.h"
#include "loss/loss.h"
#include "loss/row.h"

namespace lossd {

enum class RowLayout : uint8_t {
  kRows,      // row after row: the kernels of row.h, where the logits are
  kColumns,   // class after class, as they lie or turned around: those of column.h, on a copy
  kGathered,  // row after row in the scratch, of the compute type
};

// What of a tile is copied, and where it goes: byte offsets in the scratch, or kInPlace for what is used where it is.
struct ScratchLayout {
  static constexpr int64_t kInPlace = -1;
  static constexpr int64_t kAlignment = 64;
  static constexpr int64_t kTileBytes = 1 << 15;  // rows of one tile stay in the L1 cache between their steps
  static constexpr int64_t kOnceBytes = 1 << 18;  // of rows that are read once, and need not stay
  static constexpr int64_t kKeptBytes = 1 << 16;  // of rows whose exponentials are kept, in the L2 cache
  static constexpr int64_t kMaxTileElements = kMaxPlainRows;
  static constexpr int64_t kMinColumns = 64;        // in a tile: whole cache lines, and a few vectors
  static constexpr int64_t kGatheredElements = 16;  // of what a cache line brings, all is used
  static constexpr int64_t kMaxPointBytes = 1 << 18;
  static constexpr int64_t kMaxKeptBytes = 1 << 20;  // of a row's exponentials: about an L2 cache
  static_assert(kMaxKeptBytes / static_cast<int64_t>(sizeof(float)) <= kRowPart, "nothing is kept of a row in parts");
  static constexpr int64_t kMaxShortRow = 128;  // classes; a longer row fills its vectors well

  // Rows of a tile whose classes lie apart: two copies of one stay in the cache.
  static constexpr int64_t ColumnTile(int64_t row_bytes) {
    const int64_t rows = std::clamp(kTileBytes / 2 / row_bytes, kMinColumns, kMaxTileElements);
    return rows - rows % kColumnLanes;
  }

  // By columns or by rows: that depends on the row alone, so that its bits are the same in every layout, and whatever
  // else is asked for.
  static bool IsByColumns(const Plan& plan) {
    return plan.target_kind != TargetKind::kProbabilities && plan.num_classes <= kMaxShortRow;
  }

  explicit ScratchLayout(const Plan& plan)
      : temperature(IsTempered(plan) ? plan.cross_entropy.temperature : 1),
        modified(IsModified(plan)),
        chained(plan.cross_entropy.softcap != 0),
        converted(IsConverted(plan)),
        layout(LayoutOf(plan)) {
    const DataType compute = plan.compute_type;
    row_type = layout == RowLayout::kGathered || converted ? compute : plan.inputs.logits.data_type;

    const int64_t row_bytes = plan.num_classes * SizeOf(compute);
    const int64_t point_bytes = std::max<int64_t>(plan.sparse_size, 1) * static_cast<int64_t>(sizeof(Point));
    const bool by_columns = layout == RowLayout::kColumns;
    const int64_t least = by_columns ? kMinColumns : plan.inner_size > 1 ? kGatheredElements : 1;
    copied = by_columns && plan.inner_size > 1 && plan.inputs.logits.data_type == compute && !modified;
    const bool dense = plan.target_kind == TargetKind::kProbabilities;
    whole_rows = plan.results.entropy || plan.results.probabilities || plan.results.log_probabilities ||
                 (dense && plan.results.targets_gradient);
    // The larger a tile, the more of its rows hide what ends the one before.
    const bool once = layout == RowLayout::kRows && !dense && !whole_rows;
    const int64_t tile_limit = !once ? kTileBytes : plan.results.logits_gradient ? kKeptBytes : kOnceBytes;
    tile_elements = copied ? ColumnTile(row_bytes) : std::clamp(tile_limit / row_bytes, least, kMaxTileElements);
    tile_elements = std::clamp<int64_t>(kMaxPointBytes / point_bytes, 1, tile_elements);
    tile_elements =
        std::min({tile_elements, plan.block_elements, plan.inner_size > 1 ? plan.inner_size : tile_elements});

    const int64_t tile_bytes = tile_elements * row_bytes;
    const ResultTypes& results = plan.results;
    const TensorType& gradient = results.logits_gradient;
    const auto ready = [&](const TensorType& tensor) { return plan.inner_size == 1 && tensor.data_type == compute; };
    columns_bytes = ColumnStride(tile_elements) * row_bytes;
    columns = Take(by_columns, (copied ? 2 : 1) * columns_bytes);
    if (by_columns) {  // short rows are turned around as the compute type
      logits = Take(plan.inner_size == 1 && (converted || row_type != compute), tile_bytes);
      rows = Take(whole_rows && plan.inner_size != 1, tile_bytes);
      logits_gradient =
          Take(gradient && plan.inner_size == 1 && (chained || gradient.data_type != compute), tile_bytes);
    } else {
      const bool in_rows = layout == RowLayout::kRows;
      logits = Take(!in_rows && (modified || !ready(plan.inputs.logits)), tile_bytes);
      // The derivative of the modifiers needs the logits, which the gradient may overwrite.
      const bool written = !chained && (ready(gradient) || (in_rows && gradient.data_type == row_type));
      logits_gradient = Take(gradient && !written, tile_bytes);
    }
    targets = Take(dense && !ready(plan.inputs.targets), tile_bytes);
    targets_gradient = Take(dense && results.targets_gradient && !ready(results.targets_gradient), tile_bytes);
    probabilities = Take(results.probabilities && !ready(results.probabilities), tile_bytes);
    log_probabilities = Take(results.log_probabilities && !ready(results.log_probabilities), tile_bytes);
    class_weights = Take(plan.inputs.class_weights && plan.inputs.class_weights.data_type != compute, row_bytes);
    const int64_t kept_bytes = compute == DataType::kFloat64 ? RowRange<double>::KeptBytes(plan.num_classes)
                                                             : RowRange<float>::KeptBytes(plan.num_classes);
    kept = Take(gradient && !by_columns && row_bytes <= kMaxKeptBytes, tile_elements * kept_bytes);
    // Neither the rows nor their targets may be in the scratch, where the next tile's would take their place.
    pending = kept != kInPlace && layout == RowLayout::kRows && targets == kInPlace && logits_gradient == kInPlace &&
              gradient.data_type == row_type;
    points = Take(true, tile_elements * point_bytes);
    ignored = TakeRows<bool>();
    sums = TakeRows<RowSums>();
    log_denominators = TakeRows<double>();
    points_of_rows = TakeRows<std::span<Point>>();
    gradients = TakeRows<Gradient<double>>();
    num_parts = (plan.num_classes + kRowPart - 1) / kRowPart;
    reads_pieces = layout == RowLayout::kRows && !whole_rows && num_parts == 1 && (pending || !gradient);
    parts = Take(num_parts > 1, num_parts * static_cast<int64_t>(sizeof(RowSums)));
  }

  // Of a copy of `count` rows as columns.
  static constexpr int64_t ColumnStride(int64_t count) {
    return (count + kColumnLanes - 1) / kColumnLanes * kColumnLanes;
  }

  bool whole_rows;     // outputs of every class are asked for, besides the logits' gradient
  bool pending;        // the gradient of a tile is written while the next one is read
  bool reads_pieces;   // no step needs more of the logits at a time than a block
  bool copied;         // the next tile is copied while one is computed
  double temperature;  // that rows are evaluated with
  bool modified;       // softcap, or another temperature: rows are rewritten before they are evaluated
  bool chained;        // softcap: and so is their gradient, after
  bool converted;      // they are, or no kernel reads them as they are stored
  RowLayout layout;
  DataType row_type;  // what the kernels read rows as
  int64_t total_bytes = 0;
  int64_t tile_elements = 1;  // rows evaluated together
  int64_t rows = kInPlace;    // of a tile by columns
  int64_t num_parts = 1;      // of a row, see kRowPart
  int64_t columns_bytes = 0;  // of a copy of one; there is room for two if `copied`
  int64_t columns, logits, targets, logits_gradient, targets_gradient, probabilities, log_probabilities, class_weights,
      points, kept, parts;
  int64_t ignored, sums, log_denominators, points_of_rows, gradients;  // of the rows of a tile

 private:
  // What cannot be evaluated with the temperature is computed in double (plan.cc).
  static bool IsTempered(const Plan& plan) {
    return plan.cross_entropy.temperature != 1 && plan.compute_type == DataType::kFloat32;
  }

  static bool IsModified(const Plan& plan) {
    return (plan.cross_entropy.temperature != 1 && !IsTempered(plan)) || plan.cross_entropy.softcap != 0;
  }

  static bool IsConverted(const Plan& plan) {
    const bool readable = plan.inputs.logits.data_type == plan.compute_type || plan.compute_type == DataType::kFloat32;
    return IsModified(plan) || !readable;
  }

  static RowLayout LayoutOf(const Plan& plan) {
    if (IsByColumns(plan)) return RowLayout::kColumns;
    const bool as_stored = !IsTempered(plan) || plan.inputs.logits.data_type == DataType::kFloat32;
    return plan.inner_size == 1 && !IsConverted(plan) && as_stored ? RowLayout::kRows : RowLayout::kGathered;
  }

  template <typename Row>
  int64_t TakeRows() {
    return Take(true, tile_elements * static_cast<int64_t>(sizeof(Row)));
  }
  static_assert(sizeof(Gradient<float>) == sizeof(Gradient<double>), "one place is enough for either");

  int64_t Take(bool needed, int64_t bytes) {
    if (!needed) return kInPlace;
    const int64_t offset = total_bytes;
    total_bytes += (bytes + kAlignment - 1) / kAlignment * kAlignment;
    return offset;
  }
};

}  // namespace lossd

#endif  // LOSSD_LOSS_SCRATCH_H_
