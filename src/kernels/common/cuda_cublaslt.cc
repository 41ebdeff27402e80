#include "kernels/common/cuda_cublaslt.h"

#include <cublasLt.h>
#include <dlfcn.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>
#include <optional>
#include <tuple>
#include <utility>
#include <vector>

#include "core/error.h"

namespace qg {
namespace {

constexpr size_t kWorkspaceBytes = size_t{32} << 20;  // what NVIDIA recommends for Hopper
constexpr int kAlgorithms = 16;                       // that are timed
constexpr int kRuns = 3;
// From so many rows on, the fastest few also run without pause.
constexpr int64_t kSustainedFromRows = 512;
constexpr size_t kSustainedAlgorithms = 5;
constexpr float kSustainedWithin = 1.2f, kSustainedUs = 3000;

// The functions that are used, under their own names.
struct Library {
  void* handle = nullptr;
// clang-format off
#define QG_CUBLASLT_FUNCTIONS(X) \
  X(cublasLtCreate) \
  X(cublasLtDestroy) \
  X(cublasLtMatmul) \
  X(cublasLtMatmulAlgoGetHeuristic) \
  X(cublasLtMatmulAlgoCheck) \
  X(cublasLtMatmulDescCreate) \
  X(cublasLtMatmulDescDestroy) \
  X(cublasLtMatmulDescSetAttribute) \
  X(cublasLtMatrixLayoutCreate) \
  X(cublasLtMatrixLayoutDestroy) \
  X(cublasLtMatmulPreferenceCreate) \
  X(cublasLtMatmulPreferenceDestroy) \
  X(cublasLtMatmulPreferenceSetAttribute) \
  X(cublasLtGetStatusString)
// clang-format on
#define QG_DECLARE(name) decltype(&::name) name = nullptr;
  QG_CUBLASLT_FUNCTIONS(QG_DECLARE)
#undef QG_DECLARE

  Library() {
    handle = dlopen("libcublasLt.so.13", RTLD_NOW | RTLD_LOCAL);
    if (!handle) missing(dlerror());
#define QG_LOAD(name)                                               \
  name = reinterpret_cast<decltype(&::name)>(dlsym(handle, #name)); \
  if (!name) missing("it has no " #name);
    QG_CUBLASLT_FUNCTIONS(QG_LOAD)
#undef QG_LOAD
  }
  [[noreturn]] static void missing(const char* why) {
    throw Error(fmt::format("cuBLASLt 13 cannot be opened: {}", why ? why : "?"), "libcublasLt.so.13",
                "install the package libcublas-13-0 (or put the library's folder into LD_LIBRARY_PATH)",
                ExitCode::cannot_here);
  }
};

const Library& library() {
  static const Library opened;
  return opened;
}

void check(cublasStatus_t status, const char* call) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  throw Error(fmt::format("cuBLASLt: {}", library().cublasLtGetStatusString(status)), call,
              "run `quantgrid doctor`: it checks driver, card and libraries", ExitCode::cannot_here);
}

cudaDataType_t data_type(DType type) {
  return type == DType::f32 ? CUDA_R_32F : type == DType::i32 ? CUDA_R_32I : CUDA_R_16F;
}

// The library's descriptions of one product. It is column-major: D[n, m] = W[k, n]^T X[k, m].
struct Problem {
  cublasLtMatmulDesc_t desc = nullptr;
  cublasLtMatrixLayout_t weight = nullptr, x = nullptr, y = nullptr;

  explicit Problem(const GemmShape& s, const GemmPointers& p) {
    const Library& lt = library();
    const bool integers = s.kind == GemmKind::int8;
    const cudaDataType_t type = integers ? CUDA_R_8I : s.kind == GemmKind::f16 ? CUDA_R_16F : CUDA_R_8F_E4M3;
    check(lt.cublasLtMatmulDescCreate(&desc, integers ? CUBLAS_COMPUTE_32I : CUBLAS_COMPUTE_32F,
                                      integers ? CUDA_R_32I : CUDA_R_32F),
          "cublasLtMatmulDescCreate");
    set(CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_T);
    if (s.kind == GemmKind::e4m3 || s.kind == GemmKind::e4m3_scaled) set(CUBLASLT_MATMUL_DESC_FAST_ACCUM, int8_t{1});
    if (s.kind == GemmKind::e4m3_scaled) {
      set(CUBLASLT_MATMUL_DESC_A_SCALE_MODE, CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F);
      set(CUBLASLT_MATMUL_DESC_B_SCALE_MODE, CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F);
      set(CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, p.weight_scales);
      set(CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, p.x_scales);
    }
    layout(weight, type, s.k, s.n, s.weight_pitch);
    layout(x, type, s.k, s.m, s.k);
    layout(y, data_type(s.y_type), s.n, s.m, s.y_pitch);
  }
  ~Problem() {
    const Library& lt = library();
    for (const cublasLtMatrixLayout_t each : {weight, x, y})
      if (each) lt.cublasLtMatrixLayoutDestroy(each);
    if (desc) lt.cublasLtMatmulDescDestroy(desc);
  }
  Problem(const Problem&) = delete;
  Problem& operator=(const Problem&) = delete;

 private:
  template <class T>
  void set(cublasLtMatmulDescAttributes_t attribute, const T& value) {
    check(library().cublasLtMatmulDescSetAttribute(desc, attribute, &value, sizeof value),
          "cublasLtMatmulDescSetAttribute");
  }
  static void layout(cublasLtMatrixLayout_t& to, cudaDataType_t type, int64_t rows, int64_t columns, int64_t pitch) {
    check(library().cublasLtMatrixLayoutCreate(&to, type, static_cast<uint64_t>(rows), static_cast<uint64_t>(columns),
                                               pitch),
          "cublasLtMatrixLayoutCreate");
  }
};

// Time between two points of a stream.
class Stopwatch {
 public:
  explicit Stopwatch(cudaStream_t stream) : stream_(stream) {
    QG_CUDA(cudaEventCreate(&begin_));
    QG_CUDA(cudaEventCreate(&end_));
  }
  ~Stopwatch() {
    cudaEventDestroy(begin_);
    cudaEventDestroy(end_);
  }
  Stopwatch(const Stopwatch&) = delete;
  Stopwatch& operator=(const Stopwatch&) = delete;
  void start() const { QG_CUDA(cudaEventRecord(begin_, stream_)); }
  float stop_us() const {  // waits
    float ms = 0;
    QG_CUDA(cudaEventRecord(end_, stream_));
    QG_CUDA(cudaEventSynchronize(end_));
    QG_CUDA(cudaEventElapsedTime(&ms, begin_, end_));
    return ms * 1000;
  }

 private:
  cudaStream_t stream_;
  cudaEvent_t begin_ = nullptr, end_ = nullptr;
};

using Key = std::tuple<GemmKind, DType, int64_t, int64_t, int64_t, int64_t, int64_t>;
Key key_of(const GemmShape& s, int64_t m) {
  return {s.kind, s.y_type, m, s.n, s.k, s.weight_pitch, s.y_pitch};
}

}  // namespace

struct CublasLt::State {
  cublasLtHandle_t handle = nullptr;
  DeviceBuffer workspace{kWorkspaceBytes};
  std::map<Key, std::vector<cublasLtMatmulAlgo_t>> algorithms;  // empty: the library has none; first: what runs

  // For looking up: the library wants scale vectors named even then.
  GemmPointers any_pointers() const {
    GemmPointers p;
    p.weight_scales = p.x_scales = workspace.as<float>();
    return p;
  }

  std::vector<cublasLtMatmulAlgo_t> heuristic(const Problem& problem) const {
    const Library& lt = library();
    cublasLtMatmulPreference_t preference = nullptr;
    check(lt.cublasLtMatmulPreferenceCreate(&preference), "cublasLtMatmulPreferenceCreate");
    const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t attribute, const auto& value) {
      lt.cublasLtMatmulPreferenceSetAttribute(preference, attribute, &value, sizeof value);
    };
    prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, uint64_t{kWorkspaceBytes});
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, uint32_t{16});
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, uint32_t{16});
    std::array<cublasLtMatmulHeuristicResult_t, kAlgorithms> results;
    int found = 0;
    const cublasStatus_t status =
        lt.cublasLtMatmulAlgoGetHeuristic(handle, problem.desc, problem.weight, problem.x, problem.y, problem.y,
                                          preference, kAlgorithms, results.data(), &found);
    lt.cublasLtMatmulPreferenceDestroy(preference);
    std::vector<cublasLtMatmulAlgo_t> usable;
    for (int i = 0; status == CUBLAS_STATUS_SUCCESS && i < found; ++i)
      if (results[static_cast<size_t>(i)].state == CUBLAS_STATUS_SUCCESS)
        usable.push_back(results[static_cast<size_t>(i)].algo);
    return usable;
  }

  const std::vector<cublasLtMatmulAlgo_t>& algorithms_at(const GemmShape& shape, int64_t m) {
    const auto [at, added] = algorithms.try_emplace(key_of(shape, m));
    if (added) {
      GemmShape top = shape;
      top.m = m;
      at->second = heuristic(Problem(top, any_pointers()));
    }
    return at->second;
  }

  bool fits(const Problem& problem, const cublasLtMatmulAlgo_t& algorithm) const {
    cublasLtMatmulHeuristicResult_t result;
    return library().cublasLtMatmulAlgoCheck(handle, problem.desc, problem.weight, problem.x, problem.y, problem.y,
                                             &algorithm, &result) == CUBLAS_STATUS_SUCCESS &&
           result.workspaceSize <= kWorkspaceBytes;
  }

  // The bucket's algorithm, or the heuristic's for exactly this m where that one cannot do it; null: there is none.
  const cublasLtMatmulAlgo_t* choose(const GemmShape& shape, const Problem& problem) {
    const auto& shared = algorithms_at(shape, bucket(shape.m));
    if (!shared.empty() && fits(problem, shared.front())) return &shared.front();
    const auto& own = algorithms_at(shape, shape.m);
    return own.empty() ? nullptr : &own.front();
  }

  cublasStatus_t multiply(const GemmShape& shape, const Problem& problem, const GemmPointers& p,
                          const cublasLtMatmulAlgo_t& algorithm, cudaStream_t stream) const {
    const int32_t one = 1, none = 0;
    const float zero = 0;
    const bool integers = shape.kind == GemmKind::int8;
    const void* alpha = integers ? static_cast<const void*>(&one) : &p.alpha;
    const void* beta = integers ? static_cast<const void*>(&none) : &zero;
    return library().cublasLtMatmul(handle, problem.desc, alpha, p.weight, problem.weight, p.x, problem.x, beta, p.y,
                                    problem.y, p.y, problem.y, &algorithm, workspace.data(), kWorkspaceBytes, stream);
  }
};

CublasLt::CublasLt(const DeviceCapabilities&) : state_(std::make_unique<State>()) {
  check(library().cublasLtCreate(&state_->handle), "cublasLtCreate");
}

CublasLt::~CublasLt() {
  if (state_->handle) library().cublasLtDestroy(state_->handle);
}

int64_t CublasLt::bucket(int64_t m) {
  const auto up = [m](int64_t to) { return (m + to - 1) / to * to; };
  return m <= 64 ? up(16) : m <= 512 ? up(64) : m <= 2048 ? up(256) : up(1024);
}

int64_t CublasLt::bytes() const {
  return static_cast<int64_t>(state_->workspace.bytes());
}

bool CublasLt::can_run(const GemmShape& shape) {
  return state_->choose(shape, Problem(shape, state_->any_pointers())) != nullptr;
}

void CublasLt::run(const GemmShape& shape, const GemmPointers& pointers, cudaStream_t stream) {
  const Problem problem(shape, pointers);
  const cublasLtMatmulAlgo_t* algorithm = state_->choose(shape, problem);
  if (!algorithm)
    throw Error(fmt::format("cuBLASLt has no algorithm for m={} n={} k={}", shape.m, shape.n, shape.k), "",
                "report it, with the model and the card", ExitCode::cannot_here);
  check(state_->multiply(shape, problem, pointers, *algorithm, stream), "cublasLtMatmul");
}

float CublasLt::find_fastest_us(const GemmShape& shape, const GemmPointers& pointers, void* flush, size_t flush_bytes,
                                cudaStream_t stream) {
  GemmShape top = shape;
  top.m = bucket(shape.m);
  const Problem problem(top, pointers);
  state_->algorithms_at(shape, top.m);
  std::vector<cublasLtMatmulAlgo_t>& candidates = state_->algorithms[key_of(shape, top.m)];
  const Stopwatch watch(stream);
  // Of `launches` products, median of `runs`, and the index among the candidates; the failing ones are left out.
  using Timed = std::pair<float, size_t>;
  const auto time = [&](size_t i, int runs, int launches, size_t flushed) -> std::optional<Timed> {
    std::vector<float> us;
    for (int run = -1; run < runs; ++run) {  // run -1 warms up
      if (flushed > 0) QG_CUDA(cudaMemsetAsync(flush, run + 1, flushed, stream));
      watch.start();
      for (int launch = 0; launch < launches; ++launch)
        if (state_->multiply(top, problem, pointers, candidates[i], stream) != CUBLAS_STATUS_SUCCESS) return {};
      const float taken = watch.stop_us() / static_cast<float>(launches);
      if (run >= 0) us.push_back(taken);
    }
    std::sort(us.begin(), us.end());
    return Timed{us[us.size() / 2], i};
  };
  std::vector<Timed> timed;
  for (size_t i = 0; i < candidates.size(); ++i)
    if (const auto one = time(i, kRuns, 1, flush_bytes)) timed.push_back(*one);
  std::sort(timed.begin(), timed.end());
  if (timed.empty()) return 0;
  // Large products run at the clock that the card's power allows, which a single launch after a pause does not show.
  if (top.m >= kSustainedFromRows) {
    while (timed.size() > kSustainedAlgorithms || timed.back().first > kSustainedWithin * timed.front().first)
      timed.pop_back();
    const int launches = std::max(1, static_cast<int>(kSustainedUs / timed.front().first));
    for (Timed& each : timed) each = time(each.second, 1, launches, 0).value_or(each);
    std::sort(timed.begin(), timed.end());
  }
  std::swap(candidates[0], candidates[timed.front().second]);
  return timed.front().first;
}

}  // namespace qg
