#include "record/metrics.h"

namespace qg {

const std::vector<MetricSpec>& metrics() {
  using enum Better;
  static const std::vector<MetricSpec> rows{
      // speed
      {"output_tok_s", "tok/s", "geomean", "speed", "decode", more,
       "output tokens per second; decode: Σ (tokens out − 1) ÷ (last token − last first token); throughput: output "
       "tokens ÷ "
       "(last token − first request)"},
      {"total_tok_s", "tok/s", "geomean", "speed", "e2e", more, "tokens in and out per second, prefill included"},
      {"prefill_tok_s", "tok/s", "geomean", "speed", "prefill", more, "prompt tokens per second"},
      {"requests_s", "1/s", "mean", "speed", "e2e", more, "requests finished per second"},
      {"ttft_ms_p50", "ms", "p50", "speed", "prefill", less, "time to first token, median over requests"},
      {"ttft_ms_p90", "ms", "p90", "speed", "prefill", less, "time to first token, 90th percentile"},
      {"ttft_ms_p99", "ms", "p99", "speed", "prefill", less, "time to first token, 99th percentile"},
      {"tpot_ms_p50", "ms", "p50", "speed", "decode", less,
       "time per output token after the first, median over requests"},
      {"tpot_ms_p90", "ms", "p90", "speed", "decode", less, "time per output token after the first, 90th percentile"},
      {"tpot_ms_p99", "ms", "p99", "speed", "decode", less, "time per output token after the first, 99th percentile"},
      {"itl_ms_p50", "ms", "p50", "speed", "decode", less, "gap between two tokens of a request, median over gaps"},
      {"itl_ms_p90", "ms", "p90", "speed", "decode", less, "gap between two tokens of a request, 90th percentile"},
      {"itl_ms_p99", "ms", "p99", "speed", "decode", less, "gap between two tokens of a request, 99th percentile"},
      {"e2e_ms_p50", "ms", "p50", "speed", "e2e", less, "request to last token, median"},
      {"e2e_ms_p90", "ms", "p90", "speed", "e2e", less, "request to last token, 90th percentile"},
      {"e2e_ms_p99", "ms", "p99", "speed", "e2e", less, "request to last token, 99th percentile"},
      {"goodput_requests_s", "1/s", "mean", "speed", "e2e", more,
       "requests finished per second within `ttft_limit_ms` and `tpot_limit_ms`"},
      {"goodput_share", "1", "ratio", "speed", "e2e", more,
       "share of the requests that were finished within these limits"},
      {"batch_achieved", "sequences", "mean", "speed", "decode", neither, "mean number of sequences in a decode step"},
      {"roofline_share", "1", "ratio", "speed", "decode", more, "measured speed over what the data sheet allows"},
      {"prompt_tokens_mean", "tokens", "mean", "speed", "prefill", neither, "tokens of a prompt, as the server counts"},
      {"output_tokens_mean", "tokens", "mean", "speed", "decode", neither, "tokens of a reply, as the server counts"},
      {"client_lag_ms_p99", "ms", "p99", "speed", "e2e", less,
       "how late the load client's event loop was, 99th percentile: times of a server are uncertain by as much"},
      {"client_lag_ms_max", "ms", "max", "speed", "e2e", less, "how late the load client's event loop was at worst"},
      {"client_cpu_share", "1", "ratio", "speed", "e2e", less, "share of one processor that the load client used"},
      // memory
      {"weights_bytes", "bytes", "sum", "memory", "", less, "weights with their scales, as the engine holds them"},
      {"checkpoint_bytes", "bytes", "sum", "memory", "", less, "tensors of the checkpoint on disk"},
      {"kv_bytes_per_token", "bytes", "sum", "memory", "", less, "KV cache of one token over all layers"},
      {"kv_used_peak_bytes", "bytes", "max", "memory", "", neither, "most KV cache in use at once"},
      {"peak_rss_bytes", "bytes", "max", "memory", "", less,
       "largest resident set of the process from the loading of the model for this measurement on"},
      {"peak_gpu_bytes", "bytes", "max", "memory", "", less, "most GPU memory in use at once"},
      {"peak_host_bytes", "bytes", "max", "memory", "", less, "most host memory in use at once"},
      {"max_batch", "sequences", "max", "memory", "", more, "greatest batch that fits at `context_len` tokens each"},
      // energy
      {"j_per_output_token", "J", "mean", "energy", "", less, "energy of the window over its output tokens"},
      {"power_w_mean", "W", "mean", "energy", "", less, "mean power of the window"},
      // accuracy
      {"ppl", "1", "geomean", "accuracy", "", less, "perplexity per token under `protocol`"},
      {"base_ppl", "1", "geomean", "accuracy", "", less, "perplexity of the FP16 baseline on the same tokens"},
      {"ppl_ratio", "1", "ratio", "accuracy", "", less, "ppl over base_ppl, paired"},
      {"kld_mean", "nats", "mean", "accuracy", "", less,
       "KL divergence of the full distribution from the baseline's, per token"},
      {"kld_p99", "nats", "p99", "accuracy", "", less, "KL divergence, 99th percentile over tokens"},
      {"kld_max", "nats", "max", "accuracy", "", less, "KL divergence, worst token"},
      {"top1", "1", "ratio", "accuracy", "", more, "share of tokens whose likeliest continuation is the baseline's"},
      {"acc", "1", "ratio", "accuracy", "", more, "share of multiple-choice questions answered right"},
      {"base_acc", "1", "ratio", "accuracy", "", more, "the same for the baseline"},
      {"flip_rate", "1", "ratio", "accuracy", "", less,
       "share of questions that either the model or the baseline alone answers right"},
      // quantize
      {"quantize_s", "s", "sum", "quantize", "", less, "wall time to make the checkpoint"},
      {"engine_build_s", "s", "sum", "quantize", "", less,
       "wall time in which another engine built from the checkpoint what it runs"},
      {"engine_bytes", "bytes", "sum", "memory", "", less, "what another engine built from the checkpoint, on disk"},
  };
  return rows;
}

const MetricSpec* find_metric(std::string_view name) {
  for (const MetricSpec& row : metrics())
    if (row.name == name) return &row;
  return nullptr;
}

}  // namespace qg
