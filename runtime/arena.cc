// SPDX-License-Identifier: Apache-2.0
#include "runtime/arena.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <functional>
#include <utility>

#include "runtime/cuda/runtime_calls.h"

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

// Sizes of the chunks that pools grow by, doubling. A GPU has no memory to waste on growth.
struct Growth {
  int64_t first;
  int64_t largest;
};
constexpr Growth kHostGrowth{int64_t{4} << 20, int64_t{256} << 20};
constexpr Growth kGpuGrowth{int64_t{2} << 20, int64_t{64} << 20};

Growth growth_of(Device device) { return device.is_cuda() ? kGpuGrowth : kHostGrowth; }

// Every tensor takes at least one unit, so that no two tensors share an address.
int64_t aligned_size(int64_t bytes, Device device) {
  const int64_t unit = device.is_cuda() ? Arena::kGpuAlignment : Arena::kAlignment;
  return (std::max<int64_t>(bytes, 1) + unit - 1) / unit * unit;
}

int64_t available_bytes(Device device) {
  if constexpr (kHasCuda) {
    if (device.is_cuda()) return cuda::available_bytes(device);
  }
  return static_cast<int64_t>(sysconf(_SC_AVPHYS_PAGES)) * sysconf(_SC_PAGESIZE);
}

// Null when the system refuses. On the host straight from the system: page-aligned, given back at
// once, and untouched pages cost nothing.
std::byte* system_memory(Device device, int64_t bytes) {
  if constexpr (kHasCuda) {
    if (device.is_cuda()) return static_cast<std::byte*>(cuda::allocate(device, bytes));
  }
  void* got = mmap(nullptr, static_cast<size_t>(bytes), PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (got == MAP_FAILED) return nullptr;
  madvise(got, static_cast<size_t>(bytes), MADV_HUGEPAGE);  // fewer TLB misses; may be refused
  return static_cast<std::byte*>(got);
}

void give_back(Device device, std::byte* memory, int64_t bytes) noexcept {
  if constexpr (kHasCuda) {
    if (device.is_cuda()) return cuda::release(device, memory);
  }
  munmap(memory, static_cast<size_t>(bytes));
}

// One piece of system memory. On the host, what is not handed out is poisoned in sanitizer builds,
// so that reading a tensor whose scope has ended, or the padding behind one, is reported.
class Chunk {
 public:
  Chunk(Device device, int64_t capacity)
      : device_(device), data_(system_memory(device, capacity)), capacity_(capacity) {
    if (valid()) poison(data_, capacity_);
  }
  Chunk(Chunk&& other) noexcept
      : device_(other.device_),
        data_(std::exchange(other.data_, nullptr)),
        capacity_(other.capacity_),
        used_(other.used_) {}
  Chunk& operator=(Chunk&& other) noexcept {
    std::swap(device_, other.device_);
    std::swap(data_, other.data_);
    std::swap(capacity_, other.capacity_);
    std::swap(used_, other.used_);
    return *this;
  }
  ~Chunk() {
    if (!valid()) return;
    unpoison(data_, capacity_);
    give_back(device_, data_, capacity_);
  }

  bool valid() const { return data_ != nullptr; }
  int64_t capacity() const { return capacity_; }
  int64_t used() const { return used_; }
  bool fits(int64_t bytes) const { return capacity_ - used_ >= bytes; }

  // Advances by `aligned` bytes; only the first `bytes` of them may be touched.
  void* take(int64_t bytes, int64_t aligned) {
    std::byte* address = data_ + used_;
    unpoison(address, bytes);
    used_ += aligned;
    return address;
  }
  void rewind(int64_t used) {
    poison(data_ + used, used_ - used);
    used_ = used;
  }

 private:
  void poison(std::byte* from, int64_t bytes) const {
    if (!device_.is_cuda()) ASAN_POISON_MEMORY_REGION(from, static_cast<size_t>(bytes));
  }
  void unpoison(std::byte* from, int64_t bytes) const {
    if (!device_.is_cuda()) ASAN_UNPOISON_MEMORY_REGION(from, static_cast<size_t>(bytes));
  }

  Device device_;
  std::byte* data_;
  int64_t capacity_;
  int64_t used_ = 0;
};

}  // namespace

// A stack of chunks: those before `active` are closed, those behind it are empty and kept for
// reuse. The sum of all used bytes is `current`, which is why a byte count is enough of a mark.
struct Arena::Pool {
  explicit Pool(Device where) : device(where), growth(growth_of(where).first) {}

  Device device;
  int64_t growth;  // size of the next chunk that nobody asked for
  int64_t current = 0;
  int64_t peak = 0;
  std::vector<int64_t> open_scopes;  // their marks
  std::vector<Chunk> chunks;
  size_t active = 0;

  enum class Room { kExact, kGrow };
  bool take_room(int64_t bytes, Room room);
  void rewind(int64_t mark);
};

// Makes chunks[active] a chunk with room for `bytes`. False when the system has no memory.
bool Arena::Pool::take_room(int64_t bytes, Room room) {
  if (active < chunks.size() && chunks[active].fits(bytes)) return true;
  // An unused active chunk may be replaced; a used one is closed.
  const bool close = active < chunks.size() && chunks[active].used() > 0;
  const size_t target = close ? active + 1 : active;
  const auto place = chunks.begin() + static_cast<std::ptrdiff_t>(target);
  const auto kept =
      std::find_if(place, chunks.end(), [&](const Chunk& chunk) { return chunk.fits(bytes); });
  if (kept != chunks.end()) {
    std::swap(*kept, chunks[target]);
    active = target;
    return true;
  }
  const bool grow = room == Room::kGrow && bytes <= growth;
  Chunk fresh(device, grow ? growth : bytes);
  if (fresh.valid()) {
    if (grow) growth = std::min(2 * growth, growth_of(device).largest);
    chunks.insert(place, std::move(fresh));
    active = target;
    return true;
  }
  // Growth and empty chunks are for speed only: without them, the bytes asked for may fit.
  chunks.erase(place, chunks.end());
  fresh = Chunk(device, bytes);
  if (!fresh.valid()) {
    if (!close && active > 0) --active;  // the empty one is gone
    return false;
  }
  chunks.push_back(std::move(fresh));
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
  if (!measuring()) require_device(device);
}

Arena::~Arena() = default;

Arena::Pool& Arena::pool(std::string_view purpose) {
  auto found = pools_.find(purpose);
  if (found == pools_.end()) {
    found = pools_.emplace(std::string(purpose), std::make_unique<Pool>(device_)).first;
  }
  return *found->second;
}

Tensor Arena::allocate(std::string_view purpose, DType dtype, const Shape& shape) {
  const int64_t bytes = Tensor(nullptr, dtype, shape).bytes();
  const int64_t aligned = aligned_size(bytes, device_);
  Pool& owner = pool(purpose);
  void* address = nullptr;
  if (!measuring()) {
    if (!owner.take_room(aligned, Pool::Room::kGrow)) throw out_of_memory(purpose, aligned);
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
  const int64_t aligned = aligned_size(bytes, device_);
  if (!pool(purpose).take_room(aligned, Pool::Room::kExact)) throw out_of_memory(purpose, bytes);
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
                  to_string(device_), purpose, bytes, available_bytes(device_), owners));
}

}  // namespace rankwise
