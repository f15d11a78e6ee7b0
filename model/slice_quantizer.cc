// SPDX-License-Identifier: Apache-2.0
#include "model/slice_quantizer.h"

#include <algorithm>
#include <span>
#include <vector>

#include "kernels/quantize.h"
#include "runtime/packed_codes.h"
#include "runtime/transfer.h"

namespace rankwise {
namespace {

constexpr int64_t kPiece = int64_t{1} << 21;  // elements read and quantised at once, whole blocks
static_assert(kPiece % kNf4Block == 0);

int64_t blocks_of(int64_t elements) { return (elements + kNf4Block - 1) / kNf4Block; }

// Elements [begin, end) of the flattened whole that are neighbours in the slice, too: there they
// begin at `element`.
struct Run {
  int64_t begin;
  int64_t end;
  int64_t element;

  int64_t first_block() const { return begin / kNf4Block; }
  int64_t blocks() const { return blocks_of(end) - first_block(); }
};

// The slice in its own order, in runs of at most kPiece / kNf4Block blocks.
std::vector<Run> runs_of(const MatrixSlice& slice) {
  const Shape shape = slice.shape();
  const int64_t rows = slice.is_contiguous() ? 1 : shape.dim(0);
  const int64_t width = slice.is_contiguous() ? shape.numel() : shape.dim(1);
  std::vector<Run> runs;
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t first = slice.first() + row * slice.in();
    for (int64_t begin = first; begin < first + width;) {
      const int64_t end = std::min(begin / kNf4Block * kNf4Block + kPiece, first + width);
      runs.push_back({begin, end, row * width + begin - first});
      begin = end;
    }
  }
  return runs;
}

// Whether no block lies partly outside the slice.
bool has_whole_blocks(std::span<const Run> runs, int64_t whole) {
  return std::ranges::all_of(runs, [&](const Run& run) {
    return run.begin % kNf4Block == 0 && (run.end % kNf4Block == 0 || run.end == whole);
  });
}

// Reads all blocks that runs touch, piece by piece.
class BlockReader {
 public:
  struct Placed {
    Run run;
    int64_t offset;  // of its first block, in elements of the piece
  };

  BlockReader(const WeightSource& source, const std::string& name, std::span<const Run> runs)
      : source_(&source), name_(name), whole_(source.shape(name).numel()), runs_(runs) {
    int64_t blocks = 0;
    for (const Run& run : runs) blocks += run.blocks();
    capacity_ = std::min(kPiece, blocks * kNf4Block);
  }

  int64_t capacity() const { return capacity_; }  // elements of the largest piece
  // The next piece, fp32, whole blocks filled up with zeros; empty when there is none left.
  std::span<const float> next() {
    values_.resize(static_cast<size_t>(capacity_));
    placed_.clear();
    int64_t used = 0;
    for (; next_ < runs_.size(); ++next_) {
      const Run& run = runs_[next_];
      const int64_t size = run.blocks() * kNf4Block;
      if (used + size > capacity_) break;
      const int64_t first = run.first_block() * kNf4Block;
      const int64_t count = std::min(size, whole_ - first);
      source_->read_elements(name_, first, Tensor(values_.data() + used, DType::kF32, {count}));
      std::fill_n(values_.begin() + used + count, size - count, 0.0f);
      placed_.push_back({run, used});
      used += size;
    }
    return {values_.data(), static_cast<size_t>(used)};
  }
  std::span<const Placed> placed() const { return placed_; }  // the runs of that piece

 private:
  const WeightSource* source_;
  std::string name_;
  int64_t whole_;
  std::span<const Run> runs_;
  int64_t capacity_ = 0;
  size_t next_ = 0;
  std::vector<float> values_;
  std::vector<Placed> placed_;
};

// Codes of the slice, and scales at the places of their blocks in the whole.
void quantize_on_host(uint8_t* codes, float* scales, BlockReader& reader) {
  Stream host;
  std::vector<uint8_t> piece_codes(static_cast<size_t>(reader.capacity() / 2));
  std::vector<float> piece_scales(static_cast<size_t>(reader.capacity() / kNf4Block));
  for (auto values = reader.next(); !values.empty(); values = reader.next()) {
    const auto count = static_cast<int64_t>(values.size());
    quantize_nf4_blocks(Tensor(piece_codes.data(), DType::kU8, {count / 2}),
                        Tensor(piece_scales.data(), DType::kF32, {count / kNf4Block}),
                        Tensor(const_cast<float*>(values.data()), DType::kF32, {count}), host);
    for (const auto& [run, offset] : reader.placed()) {
      copy_codes({codes, run.element}, {piece_codes.data(), offset + run.begin % kNf4Block},
                 run.end - run.begin);
      std::copy_n(piece_scales.data() + offset / kNf4Block, run.blocks(),
                  scales + run.first_block());
    }
  }
}

// The same for runs of whole blocks: their codes come out in the order of the slice.
void quantize_on_device(const Tensor& codes, float* scales, BlockReader& reader,
                        std::span<const Run> runs, int64_t elements, Arena& arena, Stream& stream) {
  const auto scope = arena.scope("staging");
  const Tensor staged = arena.allocate("staging", DType::kF32, {reader.capacity()});
  const Tensor slice_scales = arena.allocate("staging", DType::kF32, {blocks_of(elements)});
  if (arena.measuring()) return;
  int64_t done = 0;
  for (auto values = reader.next(); !values.empty(); values = reader.next()) {
    const int64_t end = std::min(done + static_cast<int64_t>(values.size()), elements);
    const Tensor piece = staged.rows(0, end - done);
    upload(piece, values.data(), stream);
    quantize_nf4_blocks(codes.rows(done / 2, (end + 1) / 2),
                        slice_scales.rows(done / kNf4Block, blocks_of(end)), piece, stream);
    done = end;
  }
  std::vector<float> on_host(static_cast<size_t>(slice_scales.numel()));
  download(on_host.data(), slice_scales, stream);
  for (const Run& run : runs) {
    std::copy_n(on_host.data() + run.element / kNf4Block, run.blocks(), scales + run.first_block());
  }
}

}  // namespace

void quantize_slice(QuantizedTensor& out, const WeightSource& source, const std::string& name,
                    const MatrixSlice& slice, Communicator& tensor, Arena& arena, Stream& stream) {
  const int64_t blocks = blocks_of(slice.whole.numel());
  const int64_t elements = out.shape.numel();
  const std::vector<Run> runs = runs_of(slice);
  BlockReader reader(source, name, runs);
  std::vector<float> scales(arena.measuring() ? 0 : static_cast<size_t>(blocks));
  if (stream.is_cuda() && has_whole_blocks(runs, slice.whole.numel())) {
    quantize_on_device(out.codes, scales.data(), reader, runs, elements, arena, stream);
  } else if (!arena.measuring()) {
    std::vector<uint8_t> on_host(stream.is_cuda() ? static_cast<size_t>(out.codes.numel()) : 0);
    uint8_t* codes = stream.is_cuda() ? on_host.data() : out.codes.data<uint8_t>();
    quantize_on_host(codes, scales.data(), reader);
    pad_codes(codes, elements);
    if (stream.is_cuda()) upload(out.codes, codes, stream);
  }
  if (!arena.measuring()) {
    // Scales that are not negative order like their bits, and so NaN wins here as in one block.
    Stream host;
    tensor.all_reduce(Tensor(scales.data(), DType::kI32, {blocks}), ReduceOp::kMax,
                      fmt::format("scales of {}", name), host);
  }
  set_nf4_scales(out, scales, stream);
}

}  // namespace rankwise
