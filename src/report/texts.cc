#include "report/texts.h"

#include <cmath>

#include "core/error.h"

namespace qg {

const std::vector<Text>& texts() {
  static const std::vector<Text> rows{
      // page
      {"page.title", "Quantgrid report", "Quantgrid 报告"},
      {"page.question", "Which weight format and which KV‑cache format to serve",
       "部署时该选哪种权重格式和 KV Cache 格式"},
      {"page.made", "Made {0} UTC with quantgrid {1}", "生成于 {0} UTC，quantgrid {1}"},
      {"page.coverage", "{0} of {1} planned cases have results", "计划中的 {1} 个 case 已有 {0} 个有结果"},
      {"page.outside", "{0} more cases outside the plan", "另有 {0} 个计划之外的 case"},
      {"page.only_outside", "{0} cases have results; none of them is one of the {1} planned ones",
       "{0} 个 case 有结果，均不属于计划中的 {1} 个 case"},
      {"page.nav", "Sections", "章节"},
      {"page.footer", "This page holds everything that it shows and needs no network.",
       "本页自包含全部内容，无需联网。"},
      // uses
      {"use.latency", "Latency", "延迟"},
      {"use.throughput", "Throughput", "吞吐"},
      {"use.memory", "Memory", "内存"},
      {"hint.latency", "one request at a time", "单请求逐个解码"},
      {"hint.throughput", "many requests, 1,000 tokens in and out", "大量并发请求，输入输出各 1,000 token"},
      {"hint.prefill", "prompt processing, {0}", "提示词处理，{0}"},
      {"hint.max_batch", "greatest batch at {0} tokens each", "每条 {0} token 时的最大批量"},
      {"hint.footprint", "weights and {0} tokens of KV cache", "权重加 {0} token 的 KV Cache"},
      {"unit.sequences", "{0} sequences", "{0} 条序列"},
      // the answer
      {"answer.title", "The answer", "结论"},
      {"answer.none", "No case has results yet. The plan below says what each needs.",
       "还没有任何 case 有结果。下方计划列出了每个 case 的要求。"},
      {"answer.nothing_yet", "No case of these journals has results yet.", "这些日志里还没有任何 case 有结果。"},
      {"answer.glance", "At a glance", "一览"},
      {"answer.model", "Model", "模型"},
      {"answer.card", "Card", "GPU"},
      {"answer.cpu", "CPU reference", "CPU 参考"},
      {"answer.cpu_note",
       "Speeds are this CPU's reference executor. They say which format works, not how fast a graphics card would be.",
       "速度为本机 CPU 参考执行器的速度，只能说明格式是否可用，不代表任何 GPU 的速度。"},
      {"answer.runner_up", "Runner-up", "次选"},
      {"answer.tie", "Tied with", "并列"},
      {"answer.least_bad", "Nothing passes the accuracy gates; the least bad is {0}",
       "没有格式通过精度门槛；相对最好的是 {0}"},
      {"answer.not_measured", "not measured", "未测"},
      {"answer.no_rank", "measured, but nothing may be ranked", "已测，但没有可参与排名的结果"},
      {"answer.against_base", "{0}× FP16", "FP16 的 {0} 倍"},
      {"answer.price", "What it costs", "代价"},
      {"answer.sure", "How sure", "可信度"},
      {"answer.format", "Format", "格式"},
      {"answer.unmeasured_pairs", "Not measured yet: {0}", "尚未测量：{0}"},
      // how sure
      {"sure.clear", "{0}: clear. {1}× the runner-up, 95 % interval {2} to {3}.",
       "{0}：结论明确。为次选的 {1} 倍，95% 区间 {2} 至 {3}。"},
      {"sure.no_interval", "{0}: {1}× the runner-up; measured without an interval.",
       "{0}：为次选的 {1} 倍；测量未给出区间。"},
      {"sure.tie", "{0}: not told apart from {1}.", "{0}：与 {1} 无法区分。"},
      {"sure.only", "{0}: the only one that may be ranked, so nothing it was compared with.",
       "{0}：只有一个可排名的格式，没有比较对象。"},
      {"sure.arithmetic", "{0}: arithmetic on bytes, no measurement error.", "{0}：由字节数计算得出，无测量误差。"},
      // sentences of `pick`
      {"say.head", "{0} on {1}", "{0}，{1}"},
      {"say.head_cpu", "{0} on this machine's CPU (reference executor; not a graphics card's speed)",
       "{0}，本机 CPU（参考执行器，不代表 GPU 速度）"},
      {"say.pick", "{0} ({1}): serve {2}, {3}{4}{5}.", "{0}（{1}）：选 {2}，{3}{4}{5}。"},
      {"say.lead", ", {0} times the runner-up {1}", "，是次选 {1} 的 {0} 倍"},
      {"say.tie", ", which ties with {0} ({1})", "，与 {0} 并列（{1}）"},
      {"say.only", ", the only one that may be ranked", "，是唯一可参与排名的格式"},
      {"say.price", "; against FP16 its perplexity changes by {0}, its KL divergence is {1} nats",
       "；相对 FP16，困惑度变化 {0}，KL 散度 {1} nats"},
      {"say.borrowed", " (accuracy from {0})", "（精度取自 {0}）"},
      {"say.baseline", "; it is the FP16 baseline itself, so it costs no accuracy", "；它就是 FP16 基线，没有精度损失"},
      {"say.least_bad", "{0} ({1}): nothing passes the accuracy gates; the least bad is {2}, {3}: {4}.",
       "{0}（{1}）：没有格式通过精度门槛；相对最好的是 {2}，{3}：{4}。"},
      {"say.nothing", "{0} ({1}): {2}.", "{0}（{1}）：{2}。"},
      {"say.excluded", "Left out: {0}.", "未参与排名：{0}。"},
      {"say.out", "{0} ({1})", "{0}（{1}）"},
      {"list.comma", ", ", "、"},
      {"list.semicolon", "; ", "；"},
      // reasons of grid/selection.h
      {"reason.ppl_too_high", "perplexity {0} times the baseline's, more than {1}", "困惑度为基线的 {0} 倍，超过 {1}"},
      {"reason.kld_too_high", "KL divergence {0} nats, more than {1}", "KL 散度 {0} nats，超过 {1}"},
      {"reason.accuracy_unmeasured", "accuracy not measured", "精度未测"},
      {"reason.synthetic_weights", "random weights: speed only, accuracy unmeasured", "随机权重：只有速度，精度未测"},
      {"reason.speed_unmeasured", "no value for this use", "没有此用途的测量值"},
      {"reason.speed_of_another_card", "measured on another card, whose speed does not count",
       "在其他卡上测得，速度不计入"},
      {"reason.newer_attempt_failed", "measured again since, and that failed", "之后重测失败"},
      {"reason.checkpoints_differ", "its speed and its accuracy are of different checkpoints",
       "速度与精度来自不同的 checkpoint"},
      {"reason.measured_otherwise", "measured by another method than those that are ranked",
       "测量方法与参与排名者不同"},
      {"method_of.other", "measured by another method: {0}; those ranked: {1}", "测量方法不同：{0}；参与排名者：{1}"},
      {"method_of.window", "steady window", "稳态窗口"},
      {"method_of.requests", "{0} requests", "{0} 个请求"},
      {"method_of.whole_run", "a whole run", "整次运行"},
      {"reason.fastest", "{0} times the next", "是次选的 {0} 倍"},
      {"reason.only_admissible", "the only admissible one", "唯一可用的格式"},
      {"reason.tie_overlap", "their intervals overlap", "区间重叠"},
      {"reason.tie_small", "they differ by {0}, less than {1}", "相差 {0}，小于 {1}"},
      {"reason.nothing_admissible", "nothing passes the accuracy gates", "没有格式通过精度门槛"},
      {"reason.nothing_measured", "nothing was measured that may be ranked", "没有可参与排名的测量结果"},
      // the grid
      {"grid.title", "All cases", "全部 case"},
      {"grid.plan", "The plan: {0}", "测试计划：{0}"},
      {"grid.others", "Cases of these journals", "本次日志中的 case"},
      {"grid.legend", "What the signs mean", "图例"},
      {"grid.number", "No.", "编号"},
      {"grid.card", "Card", "GPU"},
      {"grid.weights", "Weights", "权重"},
      {"grid.kv", "KV", "KV"},
      {"grid.state", "State", "状态"},
      {"grid.tok_s", "tok/s", "tok/s"},
      {"grid.ppl", "Perplexity", "困惑度"},
      {"grid.kld", "KL, nats", "KL (nats)"},
      {"grid.top1", "Top-1", "Top-1"},
      {"grid.bytes", "Weights, bytes", "权重字节"},
      {"grid.path", "Computed as", "计算路径"},
      {"grid.engine", "Engine", "引擎"},
      // engines side by side
      {"across.title", "Engines side by side: the same formats and workload", "引擎对比：相同格式与负载"},
      {"across.nothing", "No case was measured on more than one engine.", "没有任何 case 在多个引擎上测过。"},
      {"across.row", "{0} on {1}, {2}, {3}: {4} {5} tok/s", "{0}，{1}，{2}，{3}：{4} {5} tok/s"},
      {"across.times", "{0} times {1} ({2})", "是 {1}（{2}）的 {0} 倍"},
      {"across.methods", "; measured by different methods: {0}", "；测量方法不同：{0}"},
      {"across.tie", "not told apart from {0} ({1})", "与 {0}（{1}）无法区分"},
      {"grid.note_speed",
       "Speeds are output tokens per second; prefill counts prompt tokens. Below each figure is half its 95 % "
       "interval.",
       "速度为每秒输出 token 数；prefill 为每秒提示词 token 数。数字下方为 95% 区间的一半。"},
      {"grid.synthetic_mark", "° random weights: speed only, accuracy unmeasured", "° 随机权重：只有速度，精度未测"},
      {"grid.overtaken_mark",
       "† older: a newer attempt at this measurement failed (see the failed measurements), so that it decides no pick",
       "† 较早的结果：之后重测失败（见失败列表），不参与选择"},
      {"grid.checkpoint_mark",
       "‡ of another checkpoint than the accuracy beside it (other original weights or another recipe), so that it "
       "decides no pick",
       "‡ 与旁边的精度不是同一个 checkpoint（原始权重或量化方案不同），不参与选择"},
      {"grid.borrowed_mark",
       "§ accuracy from the native engine: the same case and checkpoint, whose accuracy this engine's benchmark does "
       "not "
       "measure",
       "§ 精度取自 native 引擎：相同 case 与 checkpoint；该引擎的基准测试不测精度"},
      {"grid.roofline", "{0} roofline", "roofline {0}"},
      // served loads
      {"rate.title", "Served load: requests that arrive at a rate", "在线负载：请求按给定速率到达"},
      {"rate.load", "Load", "负载"},
      {"rate.load_text", "{0}: {1} in, {2} out, {3} requests/s", "{0}：输入 {1}，输出 {2}，{3} 请求/s"},
      {"rate.finished", "Finished, 1/s", "完成，1/s"},
      {"rate.good", "Good, 1/s", "达标，1/s"},
      {"rate.ttft", "TTFT, ms", "TTFT (ms)"},
      {"rate.tpot", "TPOT, ms", "TPOT (ms)"},
      {"rate.note",
       "Times are the 50th / 90th / 99th percentile over requests and count from the moment at which a request "
       "arrived, "
       "however busy the engine was; a 99th percentile needs 300 requests. Good requests are within the limits that "
       "the "
       "load states. Requests of the warm-up are not counted. Tokens a second are the load's here, so these rows "
       "decide "
       "no pick.",
       "时间为各请求的第 50 / 90 / 99 百分位，从请求到达时刻算起，与引擎是否繁忙无关；第 99 百分位至少需要 300 个请求。"
       "达标请求满足负载声明的上限。预热请求不计入。此处每秒 token 数由负载决定，因此不参与选择。"},
      // states
      {"state.measured", "measured", "已测"},
      {"state.emulated", "measured, emulated", "已测（软件模拟）"},
      {"state.elsewhere", "accuracy from {0}", "精度测自 {0}"},
      {"state.elsewhere_plain", "measured on another card", "在其他卡上测得"},
      {"state.speed_only", "speed only", "仅速度"},
      {"state.failed", "failed", "失败"},
      {"state.unsupported", "unsupported", "不支持"},
      {"state.not_run", "not run", "未运行"},
      {"state.would_emulate", "would be emulated", "将以软件模拟"},
      {"legend.measured", "on its own card, every format in hardware", "在目标卡上测得，所有格式均由硬件计算"},
      {"legend.emulated", "on its own card, a format converted in software", "在目标卡上测得，部分格式由软件转换"},
      {"legend.elsewhere", "accuracy counts, speed is not shown", "精度有效，速度不显示"},
      {"legend.speed_only", "random weights, accuracy unmeasured", "随机权重，精度未测"},
      {"legend.failed", "the reason is listed under Method", "原因见“方法”一节"},
      {"legend.unsupported", "the card or the engine refuses it", "硬件或引擎不支持"},
      {"legend.not_run", "no result in these journals", "本次日志中没有结果"},
      // charts
      {"charts.title", "Charts", "图表"},
      {"charts.speed", "{0}: decode, one request ({1})", "{0}：单请求解码（{1}）"},
      {"charts.speed_other", "{0}: {2} ({1})", "{0}：{2}（{1}）"},
      {"charts.tradeoff", "{0}: accuracy against speed", "{0}：精度与速度"},
      {"charts.kld_axis", "KL divergence from FP16, nats (less is better)", "相对 FP16 的 KL 散度，nats（越小越好）"},
      {"charts.speed_axis", "output tokens per second", "每秒输出 token"},
      {"charts.prefill_axis", "prompt tokens per second", "每秒提示词 token"},
      {"charts.gate", "gate: {0} nats", "门槛：{0} nats"},
      {"charts.none", "Nothing to draw yet.", "暂无可绘制的数据。"},
      {"charts.noscript", "The charts need JavaScript. The table above has the same figures.",
       "图表需要 JavaScript；上方表格含有相同数据。"},
      {"charts.aria", "Bar chart of {0}; the figures are in the table of all cases.",
       "{0} 的柱状图，数据见“全部 case”表。"},
      {"charts.cpu", "CPU reference executor", "CPU 参考执行器"},
      // method
      {"method.title", "Method", "方法"},
      {"method.rules", "How the winner is chosen", "如何选出胜者"},
      {"method.rule_admissible",
       "A format is admissible when its perplexity is at most {0} times the FP16 baseline's and its KL divergence from "
       "it at most {1} nats.",
       "困惑度不超过 FP16 基线的 {0} 倍、KL 散度不超过 {1} nats 的格式才可入选。"},
      {"method.rule_fastest",
       "Among the admissible the fastest wins, for memory the one with the greatest batch. Two tie when their 95 % "
       "intervals overlap or they differ by less than {0}. KL decides who is admissible, never who wins.",
       "可入选者中最快者胜；内存用途以最大批量者胜。95% 区间重叠或相差小于 {0} 时视为并列。KL "
       "只决定能否入选，不决定谁胜出。"},
      {"method.rule_synthetic",
       "Random weights give speed only; such rows never win. Accuracy measured on another card counts, its speed does "
       "not.",
       "随机权重只能给出速度，此类结果不参与胜出。在其他卡上测得的精度有效，速度无效。"},
      {"method.speed", "How speed is measured", "速度如何测量"},
      {"method.speed_decode",
       "decode/bN: N requests of {0} tokens start together, {1} tokens out each. Output tokens per second is the sum "
       "of (tokens out − 1) over the time from the last first token to the last token; time to first token is apart. "
       "Geometric mean over rounds, 95 % interval on the logarithm.",
       "decode/bN：N 个各 {0} token 的请求同时开始，每个输出 {1} token。每秒输出 token = Σ（输出 token − "
       "1）÷（最后一个 token 时刻 − 最晚的首 token 时刻），首 token 时间另计。多轮取几何平均，95% 区间取自对数。"},
      {"method.speed_throughput",
       "IN/OUT (1000/1000): all requests are offered at once; output tokens over the time from the first request to "
       "the last token, ramp and tail included.",
       "IN/OUT（如 1000/1000）：所有请求同时到达；输出 token ÷（最后一个 token − 第一个请求），包含爬坡与收尾。"},
      {"method.accuracy", "How accuracy is measured", "精度如何测量"},
      {"method.accuracy_text",
       "Perplexity, KL divergence of the full distribution from the FP16 baseline's, and top-1 agreement on the same "
       "tokens, with block-bootstrap intervals.",
       "在相同 token 上计算困惑度、与 FP16 基线完整分布的 KL 散度和 top-1 一致率，区间用分块自助法。"},
      {"method.protocol", "Protocol: {0}", "协议：{0}"},
      {"method.dataset", "Text: {0}", "文本：{0}"},
      {"method.machines", "Machines and runs", "机器与运行"},
      {"method.run", "Run", "运行"},
      {"method.machine", "Machine", "机器"},
      {"method.driver", "Driver, CUDA", "驱动与 CUDA"},
      {"method.build", "Build", "构建"},
      {"method.failures", "Measurements that failed", "失败的测量"},
      {"method.failed_since", " ({0}; an older figure is shown, marked †)", "（{0}；所示为较早的结果，标有 †）"},
      {"method.disagree", "Results that disagree", "相互矛盾的结果"},
      {"method.disagree_text", "Older valid results that differ from the one shown by more than chance allows:",
       "较早的有效结果与所示结果之差超出随机误差："},
      {"method.prices", "Prices an hour", "每小时价格"},
      {"method.reading", "MB and GB are 10⁶ and 10⁹ bytes.", "MB 与 GB 为 10⁶ 与 10⁹ 字节。"},
      // costs
      {"cost.ppl", "Perplexity", "困惑度"},
      {"cost.kld", "KL", "KL"},
      {"cost.top1", "Top-1 agreement", "Top-1 一致率"},
      {"cost.weights", "Weights", "权重"},
      {"cost.of_fp16", "{0} of FP16", "FP16 的 {0}"},
      {"cost.money", "{0} per million tokens", "{0} / 百万 token"},
  };
  return rows;
}

std::optional<Language> parse_language(std::string_view name) {
  if (name == "en") return Language::en;
  if (name == "zh") return Language::zh;
  return {};
}

std::string_view to_string(Language language) {
  return language == Language::en ? "en" : "zh";
}

std::string_view text_of(Language language, std::string_view key) {
  for (const Text& text : texts())
    if (text.key == key) return language == Language::en ? text.en : text.zh;
  throw Error("the report has no text \"" + std::string(key) + "\"");
}

std::string figure(double value) {
  const double size = std::abs(value);
  if (size == 0) return "0";
  if (size >= 999.5) {
    std::string digits = fmt::format("{:.0f}", value);
    for (auto at = static_cast<int>(digits.size()) - 3; at > (value < 0 ? 1 : 0); at -= 3)
      digits.insert(static_cast<size_t>(at), ",");
    return digits;
  }
  if (size >= 99.95) return fmt::format("{:.0f}", value);
  if (size >= 9.995) return fmt::format("{:.1f}", value);
  if (size >= 0.9995) return fmt::format("{:.2f}", value);
  if (size >= 0.0001) return fmt::format("{:.{}f}", value, size >= 0.1 ? 3 : size >= 0.01 ? 4 : 5);
  return fmt::format("{:.1e}", value);
}

std::string ppl_figure(double ppl) {
  return ppl < 1000 ? fmt::format("{:.2f}", ppl) : figure(ppl);
}

std::string half_interval(double value, double low, double high, bool as_points) {
  const double half = (high - low) / 2;
  if (as_points) return fmt::format("± {:.1f}", 100 * half);
  return value > 0 ? fmt::format("± {:.1f} %", 100 * half / value) : std::string();
}

std::string percent(double share, int decimals) {
  return fmt::format("{:.{}f} %", 100 * share, decimals);
}
std::string signed_percent(double share, int decimals) {
  return fmt::format("{:+.{}f} %", 100 * share, decimals);
}

std::string bytes_figure(double bytes) {
  return bytes >= 999.5e6 ? figure(bytes / 1e9) + " GB" : figure(bytes / 1e6) + " MB";
}

}  // namespace qg
