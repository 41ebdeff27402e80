// A task is one KV head and up to kQueryTokens queries of it: K and V of the positions that they see are expanded to
// float, scores of all query heads that share the KV head are one matrix product, and so is the weighted sum of V.
//
// A query's result is a function of its position alone: a dot product's order depends on head_dim, the sum of weights
// goes by absolute position mod 16, the sum over V by position, and positions that a query does not see add exact
// zeros.
#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <vector>

#include "core/multiversion.h"
#include "core/parallel.h"
#include "kernels/attention/run.h"
#include "kernels/kvcache/run.h"
#include "kernels/lanes.h"
#include "kernels/linear/gemm.h"

namespace qg {
namespace {

constexpr int64_t kQueryTokens = 32;

// Queries [first, first + count) of one sequence, positions counted from its start.
struct Task {
  size_t sequence;
  int64_t kv_head, first, count;
};

// Positions that are computed with; from a multiple of 16, so that sums by position mod 16 stay what they are.
struct Span {
  int64_t begin, end;
  int64_t size() const { return end - begin; }
};

Span positions_seen(const AttentionDesc& desc, const Task& task) {
  int64_t begin = 0;
  if (desc.sliding_window) begin = std::max<int64_t>(0, task.first + 1 - *desc.sliding_window);
  return {begin / kGemmLanes * kGemmLanes, task.first + task.count};
}

struct Scratch {
  std::vector<float> q, k, v, scores, out;
};

// Turns scores of positions [begin, end) into weights exp(score - max), and everything outside into zero; returns their
// sum. `row` has `width` elements, a multiple of 16.
QG_MULTIVERSION float weigh(float* row, int64_t begin, int64_t end, int64_t width, float scale) {
  float largest = -std::numeric_limits<float>::infinity();
  for (int64_t i = begin; i < end; ++i) {
    row[i] *= scale;
    largest = row[i] > largest ? row[i] : largest;
  }
  for (int64_t i = begin; i < end; ++i) row[i] = exp_lane(row[i] - largest);
  for (int64_t i = 0; i < begin; ++i) row[i] = 0;
  for (int64_t i = end; i < width; ++i) row[i] = 0;
  float sums[16] = {};
  for (int64_t i = begin / 16 * 16; i < end; i += 16)
    for (int lane = 0; lane < 16; ++lane) sums[lane] += row[i + lane];
  return sum_of_16(sums);
}

QG_MULTIVERSION void divide(const float* from, float by, float* to, int64_t count) {
  for (int64_t i = 0; i < count; ++i) to[i] = from[i] / by;
}

struct Rows {
  const float* q;  // of the task's first query, head 0
  int64_t q_stride;
  float* out;  // the same place in the output
};

// scratch.k and .v hold the span's positions, rows of head_dim padded to 16, with kGemmRows spare rows of zeros.
void attend(const AttentionDesc& desc, const Task& task, const Span& span, const Rows& rows, Scratch& s) {
  const int64_t d = desc.kv.head_dim, dp = round_up(d, kGemmLanes), group = desc.heads / desc.kv.kv_heads;
  const int64_t m = task.count * group, width = round_up(span.size(), kGemmLanes), out_stride = desc.heads * d;
  s.q.assign(static_cast<size_t>(m * dp), 0.0f);
  s.scores.resize(static_cast<size_t>(m * width));
  s.out.resize(static_cast<size_t>(m * dp));
  for (int64_t i = 0; i < m; ++i)
    std::copy_n(rows.q + i / group * rows.q_stride + (task.kv_head * group + i % group) * d, d, s.q.data() + i * dp);

  gemm_block(s.q.data(), dp, s.k.data(), dp, s.scores.data(), width, m, span.size(), dp);
  std::vector<float> totals(static_cast<size_t>(m));
  for (int64_t i = 0; i < m; ++i) {
    const int64_t position = task.first + i / group;
    int64_t begin = 0;
    if (desc.sliding_window) begin = std::max<int64_t>(0, position + 1 - *desc.sliding_window - span.begin);
    totals[static_cast<size_t>(i)] = weigh(s.scores.data() + i * width, begin, position + 1 - span.begin, width,
                                           static_cast<float>(desc.score_scale));
  }
  gemm_block_nn(s.scores.data(), width, s.v.data(), s.out.data(), m, span.size(), dp);
  for (int64_t i = 0; i < m; ++i)
    divide(s.out.data() + i * dp, totals[static_cast<size_t>(i)],
           rows.out + i / group * out_stride + (task.kv_head * group + i % group) * d, d);
}

// Expands one head's K (which = 0) or V (1) of the span from its pages.
void gather(const KvLayout& layout, const AttentionParams& params, const AttentionPiece& piece, const Task& task,
            const Span& span, int which, std::vector<float>& to) {
  const int64_t d = layout.head_dim, dp = round_up(d, kGemmLanes);
  to.assign(static_cast<size_t>((span.size() + kGemmRows) * dp), 0.0f);
  const float scale = which == 0 ? params.scale.k : params.scale.v;
  for (int64_t t = span.begin; t < span.end;) {
    const int64_t slot = t % layout.page_tokens, count = std::min(layout.page_tokens - slot, span.end - t);
    const int64_t page = piece.pages[static_cast<size_t>(t / layout.page_tokens)];
    const std::byte* from = params.kv_pool + layout.offset(page, which, task.kv_head, slot);
    float* rows = to.data() + (t - span.begin) * dp;
    if (dp == d) {
      kv_decode(layout.format, scale, from, rows, count * d);
    } else {
      for (int64_t i = 0; i < count; ++i)
        kv_decode(layout.format, scale, from + i * d * layout.element_size(), rows + i * dp, d);
    }
    t += count;
  }
}

void copy_dense(const AttentionDesc& desc, const float* from, int64_t stride, const Span& span,
                std::vector<float>& to) {
  const int64_t d = desc.kv.head_dim, dp = round_up(d, kGemmLanes);
  to.assign(static_cast<size_t>((span.size() + kGemmRows) * dp), 0.0f);
  for (int64_t t = span.begin; t < span.end; ++t) std::copy_n(from + t * stride, d, to.data() + (t - span.begin) * dp);
}

// Tasks of queries [first, first + count) of a sequence.
void add_tasks(const AttentionDesc& desc, size_t sequence, int64_t first, int64_t count, std::vector<Task>& tasks) {
  for (int64_t head = 0; head < desc.kv.kv_heads; ++head)
    for (int64_t i = 0; i < count; i += kQueryTokens)
      tasks.push_back({sequence, head, first + i, std::min(kQueryTokens, count - i)});
}

template <class Run>
void run_tasks(const std::vector<Task>& tasks, const Run& run) {
  parallel_for(static_cast<int64_t>(tasks.size()), 1, [&](int64_t begin, int64_t end) {
    thread_local Scratch scratch;
    for (int64_t i = begin; i < end; ++i) run(tasks[static_cast<size_t>(i)], scratch);
  });
}

}  // namespace

std::string to_string(const AttentionDesc& desc) {
  std::string text = fmt::format("attention heads={} kv_heads={} head_dim={} kv={}", desc.heads, desc.kv.kv_heads,
                                 desc.kv.head_dim, to_string(desc.kv.format));
  if (desc.sliding_window) text += fmt::format(" window={}", *desc.sliding_window);
  return text;
}

std::string attention_reference_name(const AttentionDesc& desc) {
  return fmt::format("cpu_reference_attention_kv_{}", to_string(desc.kv.format));
}

void run_attention_reference(const AttentionDesc& desc, const AttentionParams& params) {
  std::vector<Task> tasks;
  for (size_t i = 0; i < params.pieces.size(); ++i)
    add_tasks(desc, i, params.pieces[i].context_tokens, params.pieces[i].num_tokens, tasks);
  run_tasks(tasks, [&](const Task& task, Scratch& scratch) {
    const AttentionPiece& piece = params.pieces[task.sequence];
    const Span span = positions_seen(desc, task);
    gather(desc.kv, params, piece, task, span, 0, scratch.k);
    gather(desc.kv, params, piece, task, span, 1, scratch.v);
    const int64_t row = piece.first_row + task.first - piece.context_tokens;
    attend(desc, task, span,
           {params.q + row * params.q_stride, params.q_stride, params.out + row * desc.heads * desc.kv.head_dim},
           scratch);
  });
}

void run_dense_attention(const AttentionDesc& desc, const DenseAttentionParams& params) {
  std::vector<Task> tasks;
  std::vector<int64_t> first_rows;
  int64_t rows = 0;
  for (size_t i = 0; i < params.lengths.size(); ++i) {
    add_tasks(desc, i, 0, params.lengths[i], tasks);
    first_rows.push_back(rows);
    rows += params.lengths[i];
  }
  run_tasks(tasks, [&](const Task& task, Scratch& scratch) {
    const Span span = positions_seen(desc, task);
    const int64_t first = first_rows[task.sequence], row = first + task.first;
    const int64_t kv = first * params.kv_stride + task.kv_head * desc.kv.head_dim;
    copy_dense(desc, params.k + kv, params.kv_stride, span, scratch.k);
    copy_dense(desc, params.v + kv, params.kv_stride, span, scratch.v);
    attend(desc, task, span,
           {params.q + row * params.q_stride, params.q_stride, params.out + row * desc.heads * desc.kv.head_dim},
           scratch);
  });
}

}  // namespace qg
