#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "core/float.h"
#include "core/multiversion.h"
#include "core/parallel.h"
#include "kernels/kvcache/run.h"
#include "kernels/kvcache/shaping.h"

namespace qg {
namespace {

QG_MULTIVERSION void int8_encode(const float* from, int8_t* to, int64_t count, float multiplier) {
  for (int64_t i = 0; i < count; ++i) {
    // Adding 1.5 * 2^23 rounds to an integer, ties to even; clamping first keeps the sum in range.
    const float x = from[i] * multiplier;
    const float below = x < 127.0f ? x : 127.0f, clamped = below > -127.0f ? below : -127.0f;
    to[i] = static_cast<int8_t>((clamped + 12582912.0f) - 12582912.0f);
  }
}

QG_MULTIVERSION void int8_decode(const int8_t* from, float* to, int64_t count, float scale) {
  for (int64_t i = 0; i < count; ++i) to[i] = static_cast<float>(from[i]) * scale;
}

}  // namespace

void kv_encode(KvFormat format, float scale, const float* from, std::byte* to, int64_t count) {
  switch (format) {
    case KvFormat::fp16:
      return f16_from_f32(from, reinterpret_cast<uint16_t*>(to), static_cast<size_t>(count));
    case KvFormat::fp8:
      return e4m3_from_f32(from, reinterpret_cast<uint8_t*>(to), static_cast<size_t>(count), 1.0f / scale);
    case KvFormat::int8:
      return int8_encode(from, reinterpret_cast<int8_t*>(to), count, 1.0f / scale);
  }
}

void kv_decode(KvFormat format, float scale, const std::byte* from, float* to, int64_t count) {
  switch (format) {
    case KvFormat::fp16:
      return f32_from_f16(reinterpret_cast<const uint16_t*>(from), to, static_cast<size_t>(count));
    case KvFormat::fp8:
      f32_from_e4m3(reinterpret_cast<const uint8_t*>(from), to, static_cast<size_t>(count));
      if (scale != 1.0f)
        for (int64_t i = 0; i < count; ++i) to[i] *= scale;
      return;
    case KvFormat::int8:
      return int8_decode(reinterpret_cast<const int8_t*>(from), to, count, scale);
  }
}

void run_kv_append_reference(const KvLayout& layout, const KvAppendParams& params) {
  for (const KvAppendPiece& piece : params.pieces) {
    parallel_for(piece.num_tokens, 32, [&](int64_t begin, int64_t end) {
      std::vector<float> scratch(static_cast<size_t>(layout.head_dim));
      for (int64_t i = begin; i < end; ++i) {
        const int64_t token = piece.context_tokens + i;
        const int64_t page = piece.pages[static_cast<size_t>(token / layout.page_tokens)];
        for (int64_t head = 0; head < layout.kv_heads; ++head) {
          const int64_t from = (piece.first_row + i) * params.stride + head * layout.head_dim;
          const int64_t slot = token % layout.page_tokens;
          std::byte* key = params.pool + layout.offset(page, 0, head, slot);
          if (params.shaping)
            store_shaped_key(*params.shaping, layout.format, params.scale.k, head, layout.head_dim, params.k + from,
                             key, scratch.data());
          else
            kv_encode(layout.format, params.scale.k, params.k + from, key, layout.head_dim);
          kv_encode(layout.format, params.scale.v, params.v + from, params.pool + layout.offset(page, 1, head, slot),
                    layout.head_dim);
        }
      }
    });
  }
}

}  // namespace qg
