#include "kernels/attention/cuda_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <numeric>
#include <queue>

#include "core/error.h"
#include "kernels/attention/run.h"

namespace qg::attention {
namespace {

constexpr int64_t kPassPages = 4;  // page lists of a step, in times of what the scratch holds

int64_t divide_up(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

// Pages of the f16 copy: none for an f16 cache.
int64_t scratch_pages(const AttentionDesc& desc, int64_t max_pages, int64_t f16_copy_bytes) {
  if (desc.kv.format == KvFormat::fp16) return 0;
  KvLayout half = desc.kv;
  half.format = KvFormat::fp16;
  return std::min(f16_copy_bytes / half.page_bytes(), max_pages);
}

struct Work {
  std::array<int32_t, kSm90WorkFields> fields;
  int64_t cost;
};

}  // namespace

PlanBuffer::PlanBuffer(int64_t capacity)
    : capacity_(capacity), device_(static_cast<size_t>(std::max<int64_t>(capacity, 1)) * sizeof(int32_t)) {
  QG_CUDA(cudaMallocHost(&pinned_, kSlots * device_.bytes()));
  for (cudaEvent_t& event : sent_) QG_CUDA(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
}

PlanBuffer::~PlanBuffer() {
  for (const cudaEvent_t event : sent_) cudaEventDestroy(event);
  cudaFreeHost(pinned_);
}

void PlanBuffer::send(const CudaQueue& queue, std::span<const int32_t> values) {
  if (static_cast<int64_t>(values.size()) > capacity_)
    throw Error(fmt::format("A step's attention plan has {} entries, memory was made for {}", values.size(), capacity_),
                "", "plan no more rows and pieces than were announced");
  if (values.empty()) return;
  const size_t slot = next_++ % kSlots;
  QG_CUDA(cudaEventSynchronize(sent_[slot]));  // four steps ago: done long since
  int32_t* from = pinned_ + slot * static_cast<size_t>(capacity_);
  std::memcpy(from, values.data(), values.size_bytes());
  QG_CUDA(cudaMemcpyAsync(device_.data(), from, values.size_bytes(), cudaMemcpyHostToDevice, queue.stream));
  QG_CUDA(cudaEventRecord(sent_[slot], queue.stream));
}

Sm90Prefill::Sm90Prefill(const AttentionDesc& desc, const DeviceCapabilities& device, int64_t max_rows,
                         int64_t max_pieces, int64_t max_pages_per_piece, int64_t f16_copy_bytes)
    : desc_(desc),
      multiprocessors_(device.multiprocessors),
      scratch_pages_(scratch_pages(desc, max_pieces * max_pages_per_piece, f16_copy_bytes)),
      plan_((max_rows / kSm90PrefillRows + 1 + max_pieces) * desc.heads * kSm90WorkFields +
            (multiprocessors_ + 1) * max_pieces + 2 * kPassPages * scratch_pages_),
      expanded_(static_cast<size_t>(scratch_pages_ * 2 * desc.kv.kv_heads * desc.kv.page_tokens * desc.kv.head_dim) *
                2),
      identity_(static_cast<size_t>(scratch_pages_) * sizeof(int32_t)) {
  std::vector<int32_t> numbers(static_cast<size_t>(scratch_pages_));
  std::iota(numbers.begin(), numbers.end(), 0);
  if (scratch_pages_ > 0)
    QG_CUDA(cudaMemcpy(identity_.data(), numbers.data(), identity_.bytes(), cudaMemcpyHostToDevice));
}

int64_t Sm90Prefill::bytes() const {
  return plan_.bytes() + static_cast<int64_t>(expanded_.bytes() + identity_.bytes());
}

// Appends to the plan: the pass's page list, its works dealt to the multiprocessors, the longest first, each to the one
// that has the least to do.
void Sm90Prefill::add_pass(int64_t first_piece, std::span<const CudaPrefillPiece> pieces,
                           std::span<const Member> members) {
  Pass pass;
  pass.pages_at = static_cast<int64_t>(values_.size());
  std::vector<Work> works;
  for (const Member& member : members) {
    const CudaPrefillPiece& piece = pieces[member.index];
    const int32_t number = static_cast<int32_t>(first_piece) + static_cast<int32_t>(member.index);
    const bool expanded = desc_.kv.format != KvFormat::fp16;
    const int64_t pages = expanded ? divide_up(piece.kv_tokens, desc_.kv.page_tokens) : 0;
    for (int64_t i = 0; i < pages; ++i) values_.insert(values_.end(), {number, static_cast<int32_t>(i)});
    pass.pages += pages;
    pass.end_row = std::max<int64_t>(pass.end_row, piece.first_row + piece.num_tokens);
    for (int64_t tile = 0; tile * kSm90PrefillRows < piece.num_tokens; ++tile) {
      const int64_t last = std::min<int64_t>(piece.num_tokens, (tile + 1) * kSm90PrefillRows);
      for (int64_t head = 0; head < desc_.heads; ++head)
        works.push_back({{static_cast<int32_t>(tile), piece.first_row, static_cast<int32_t>(member.first_page),
                          piece.num_tokens, piece.kv_tokens, static_cast<int32_t>(head), number},
                         piece.kv_tokens - piece.num_tokens + last + 2 * kSm90PrefillRows});
    }
  }
  std::stable_sort(works.begin(), works.end(), [](const Work& a, const Work& b) { return a.cost > b.cost; });
  std::vector<std::vector<const Work*>> dealt(static_cast<size_t>(multiprocessors_));
  using Load = std::pair<int64_t, size_t>;
  std::priority_queue<Load, std::vector<Load>, std::greater<>> loads;
  for (size_t i = 0; i < dealt.size(); ++i) loads.push({0, i});
  for (const Work& work : works) {
    const auto [load, at] = loads.top();
    loads.pop();
    dealt[at].push_back(&work);
    loads.push({load + work.cost, at});
  }
  pass.begin_at = static_cast<int64_t>(values_.size());
  pass.works = static_cast<int64_t>(works.size());
  int32_t count = 0;
  values_.push_back(0);
  for (const auto& list : dealt) values_.push_back(count += static_cast<int32_t>(list.size()));
  pass.works_at = static_cast<int64_t>(values_.size());
  for (size_t field = 0; field < kSm90WorkFields; ++field)
    for (const auto& list : dealt)
      for (const Work* work : list) values_.push_back(work->fields[field]);
  passes_.push_back(pass);
}

std::vector<size_t> Sm90Prefill::plan(const CudaQueue& queue, int64_t max_pages, int64_t first_piece,
                                      std::span<const CudaPrefillPiece> pieces) {
  max_pages_ = max_pages;
  values_.clear();
  passes_.clear();
  std::vector<size_t> others;
  std::vector<Member> members;
  int64_t used = 0, listed = 0;
  const bool expanded = desc_.kv.format != KvFormat::fp16;
  for (size_t i = 0; i < pieces.size(); ++i) {
    const int64_t pages = expanded ? divide_up(pieces[i].kv_tokens, desc_.kv.page_tokens) : 0;
    if (pages > scratch_pages_ || listed + pages > kPassPages * scratch_pages_) {
      others.push_back(i);
      continue;
    }
    if (used + pages > scratch_pages_) {
      add_pass(first_piece, pieces, members);
      members.clear();
      used = 0;
    }
    // Where the piece's page numbers begin: in the list of the f16 copy, or in the batch's page table.
    members.push_back({i, expanded ? used : (first_piece + static_cast<int64_t>(i)) * max_pages_});
    used += pages;
    listed += pages;
  }
  if (!members.empty()) add_pass(first_piece, pieces, members);
  plan_.send(queue, values_);
  return others;
}

void Sm90Prefill::run(const CudaQueue& queue, const Variant& variant, const Inputs& in, void* f16_out) const {
  if (in.batch.max_pages != max_pages_)
    throw Error(
        fmt::format("The batch's page table has rows of {}, the plan was made for {}", in.batch.max_pages, max_pages_),
        to_string(desc_));
  for (const Pass& pass : passes_) {
    Sm90PrefillArguments args;
    args.in = in;
    args.out = f16_out;
    args.end_row = pass.end_row;
    args.work_begin = plan_.device() + pass.begin_at;
    for (int64_t field = 0; field < kSm90WorkFields; ++field)
      args.works[field] = plan_.device() + pass.works_at + field * pass.works;
    args.expanded_pages = pass.pages;
    args.pages = reinterpret_cast<const PrefillPage*>(plan_.device() + pass.pages_at);
    args.expanded = expanded_.as<__half>();
    args.identity = identity_.as<int32_t>();
    launch_prefill_sm90(queue, variant, args);
  }
}

}  // namespace qg::attention
