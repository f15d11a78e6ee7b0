// SPDX-License-Identifier: Apache-2.0
#include "runtime/arena.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <functional>
#include <utility>

#ifdef RANKWISE_SANITIZE
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(address, bytes) \
  (static_cast<void>(address), static_cast<void>(bytes))
#define ASAN_UNPOISON_MEMORY_REGION(address, bytes) \
  (static_cast<void>(address), static_cast<void>(bytes))
#endif

namespace rankwise {
namespace {

constexpr int64_t kFirstChunk = int64_t{4} << 20;
constexpr int64_t kLargestChunk = int64_t{256} << 20;

// Every tensor takes at least one unit, so that no two tensors share an address.
int64_t aligned_size(int64_t bytes) {
  const int64_t units = (std::max<int64_t>(bytes, 1) + Arena::kAlignment - 1) / Arena::kAlignment;
  return units * Arena::kAlignment;
}

int64_t available_host_bytes() {
  return static_cast<int64_t>(sysconf(_SC_AVPHYS_PAGES)) * sysconf(_SC_PAGESIZE);
}

// Memory straight from the system: page-aligned, given back at once, and untouched pages cost
// nothing. What is not handed out is poisoned in sanitizer builds, so that reading a tensor whose
// scope has ended, or the padding behind one, is reported.
class Chunk {
 public:
  // Null data when the system refuses.
  explicit Chunk(int64_t capacity) : capacity_(capacity) {
    void* got = mmap(nullptr, static_cast<size_t>(capacity), PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (got == MAP_FAILED) return;
    madvise(got, static_cast<size_t>(capacity), MADV_HUGEPAGE);  // fewer TLB misses; may be refused
    data_ = static_cast<std::byte*>(got);
    ASAN_POISON_MEMORY_REGION(data_, static_cast<size_t>(capacity_));
  }
  Chunk(Chunk&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)),
        capacity_(other.capacity_),
        used_(other.used_) {}
  Chunk& operator=(Chunk&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(capacity_, other.capacity_);
    std::swap(used_, other.used_);
    return *this;
  }
  ~Chunk() {
    if (data_ == nullptr) return;
    ASAN_UNPOISON_MEMORY_REGION(data_, static_cast<size_t>(capacity_));
    munmap(data_, static_cast<size_t>(capacity_));
  }

  bool valid() const { return data_ != nullptr; }
  int64_t capacity() const { return capacity_; }
  int64_t used() const { return used_; }
  bool fits(int64_t bytes) const { return capacity_ - used_ >= bytes; }

  // Advances by `aligned` bytes; only the first `bytes` of them may be touched.
  void* take(int64_t bytes, int64_t aligned) {
    std::byte* address = data_ + used_;
    ASAN_UNPOISON_MEMORY_REGION(address, static_cast<size_t>(bytes));
    used_ += aligned;
    return address;
  }
  void rewind(int64_t used) {
    ASAN_POISON_MEMORY_REGION(data_ + used, static_cast<size_t>(used_ - used));
    used_ = used;
  }

 private:
  std::byte* data_ = nullptr;
  int64_t capacity_ = 0;
  int64_t used_ = 0;
};

}  // namespace

// A stack of chunks: those before `active` are closed, those behind it are empty and kept for
// reuse. The sum of all used bytes is `current`, which is why a byte count is enough of a mark.
struct Arena::Pool {
  int64_t current = 0;
  int64_t peak = 0;
  std::vector<int64_t> open_scopes;  // their marks
  std::vector<Chunk> chunks;
  size_t active = 0;
  int64_t next_chunk = kFirstChunk;

  bool take_room(int64_t bytes);
  void rewind(int64_t mark);
};

// Makes chunks[active] a chunk with room for `bytes`. False when the system has no memory.
bool Arena::Pool::take_room(int64_t bytes) {
  if (active < chunks.size() && chunks[active].fits(bytes)) return true;
  // An unused active chunk may be replaced; a used one is closed.
  const bool close = active < chunks.size() && chunks[active].used() > 0;
  const size_t target = close ? active + 1 : active;
  auto kept =
      std::find_if(chunks.begin() + static_cast<std::ptrdiff_t>(std::min(target, chunks.size())),
                   chunks.end(), [&](const Chunk& chunk) { return chunk.fits(bytes); });
  if (kept != chunks.end()) {
    std::swap(*kept, chunks[target]);
  } else {
    Chunk fresh(std::max(bytes, next_chunk));
    // Growth is for speed only: when it does not fit, the bytes asked for may.
    if (!fresh.valid() && bytes < next_chunk) fresh = Chunk(bytes);
    if (!fresh.valid()) return false;
    if (bytes <= next_chunk) next_chunk = std::min(2 * next_chunk, kLargestChunk);
    chunks.insert(chunks.begin() + static_cast<std::ptrdiff_t>(target), std::move(fresh));
  }
  active = target;
  return true;
}

void Arena::Pool::rewind(int64_t mark) {
  while (current > mark && !chunks.empty()) {
    Chunk& chunk = chunks[active];
    const int64_t freed = std::min(current - mark, chunk.used());
    chunk.rewind(chunk.used() - freed);
    current -= freed;
    if (chunk.used() > 0 || active == 0) break;
    --active;
  }
  current = mark;  // measuring: there are no chunks
}

Arena::Scope::Scope(Arena* arena, std::string purpose, int64_t mark)
    : arena_(arena), purpose_(std::move(purpose)), mark_(mark) {}

Arena::Scope::Scope(Scope&& other) noexcept
    : arena_(std::exchange(other.arena_, nullptr)),
      purpose_(std::move(other.purpose_)),
      mark_(other.mark_) {}

Arena::Scope::~Scope() {
  if (arena_ != nullptr) arena_->release(purpose_, mark_);
}

Arena::Arena(Device device, Mode mode) : device_(device), mode_(mode) {
  if (device.is_cuda() && !measuring()) {
    throw ConfigError(fmt::format("device {}: this build has no CUDA backend", to_string(device)));
  }
}

Arena::~Arena() = default;

Arena::Pool& Arena::pool(std::string_view purpose) {
  auto found = pools_.find(purpose);
  if (found == pools_.end()) {
    found = pools_.emplace(std::string(purpose), std::make_unique<Pool>()).first;
  }
  return *found->second;
}

Tensor Arena::allocate(std::string_view purpose, DType dtype, const Shape& shape) {
  const int64_t bytes = Tensor(nullptr, dtype, shape).bytes();
  const int64_t aligned = aligned_size(bytes);
  Pool& owner = pool(purpose);
  void* address = nullptr;
  if (!measuring()) {
    if (!owner.take_room(aligned)) throw out_of_memory(purpose, aligned);
    address = owner.chunks[owner.active].take(bytes, aligned);
  }
  owner.current += aligned;
  owner.peak = std::max(owner.peak, owner.current);
  current_ += aligned;
  peak_ = std::max(peak_, current_);
  return Tensor(address, dtype, shape, device_);
}

void Arena::reserve(std::string_view purpose, int64_t bytes) {
  RW_ASSERT(bytes >= 0, "{} bytes for {}", bytes, purpose);
  if (measuring()) return;
  if (!pool(purpose).take_room(aligned_size(bytes))) throw out_of_memory(purpose, bytes);
}

Arena::Scope Arena::scope(std::string_view purpose) {
  Pool& owner = pool(purpose);
  owner.open_scopes.push_back(owner.current);
  return Scope(this, std::string(purpose), owner.current);
}

void Arena::release(const std::string& purpose, int64_t mark) {
  Pool& owner = pool(purpose);
  RW_ASSERT(!owner.open_scopes.empty() && owner.open_scopes.back() == mark,
            "scopes of {} ended out of order", purpose);
  owner.open_scopes.pop_back();
  current_ -= owner.current - mark;
  owner.rewind(mark);
}

std::vector<Arena::Usage> Arena::usage() const {
  std::vector<Usage> result;
  for (const auto& [purpose, owner] : pools_) {
    result.push_back({purpose, owner->current, owner->peak});
  }
  std::ranges::stable_sort(result, std::greater<>(), &Usage::peak_bytes);
  return result;
}

int64_t Arena::peak_bytes() const { return peak_; }

int64_t Arena::current_bytes() const { return current_; }

OutOfMemoryError Arena::out_of_memory(std::string_view purpose, int64_t bytes) const {
  constexpr size_t kOwnersNamed = 3;
  std::string owners;
  std::vector<Usage> largest = usage();
  std::ranges::stable_sort(largest, std::greater<>(), &Usage::current_bytes);
  for (size_t i = 0; i < std::min(kOwnersNamed, largest.size()); ++i) {
    owners += fmt::format("{}{} {} bytes", i == 0 ? "" : ", ", largest[i].purpose,
                          largest[i].current_bytes);
  }
  return OutOfMemoryError(
      fmt::format("out of memory on {}: {} asks for {} bytes, {} bytes available; in use: {}",
                  to_string(device_), purpose, bytes, available_host_bytes(), owners));
}

}  // namespace rankwise
