#include "kernels/common/cuda_cublaslt.h"

#include <cublasLt.h>
#include <dlfcn.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <tuple>
#include <vector>

#include "core/error.h"
#include "kernels/common/cuda_time.h"

namespace qg {
namespace {

constexpr size_t kWorkspaceBytes = size_t{32} << 20;  // what NVIDIA recommends for Hopper
constexpr int kAlgorithms = 8;

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
  X(cublasLtGetStatusString) \
  X(cublasLtGetVersion)
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
  return type == DType::f32    ? CUDA_R_32F
         : type == DType::i32  ? CUDA_R_32I
         : type == DType::bf16 ? CUDA_R_16BF
                               : CUDA_R_16F;
}

// The library's descriptions of one product. It is column-major: D[n, m] = W[k, n]^T X[k, m], or with sums over rows
// D[n, m] = W[n, k] X[m, k]^T.
struct Problem {
  cublasLtMatmulDesc_t desc = nullptr;
  cublasLtMatrixLayout_t weight = nullptr, x = nullptr, y = nullptr;

  explicit Problem(const GemmShape& s, const GemmPointers& p) {
    const Library& lt = library();
    const bool integers = s.kind == GemmKind::int8;
    const cudaDataType_t type = integers                   ? CUDA_R_8I
                                : s.kind == GemmKind::f16  ? CUDA_R_16F
                                : s.kind == GemmKind::bf16 ? CUDA_R_16BF
                                : s.kind == GemmKind::f32  ? CUDA_R_32F
                                                           : CUDA_R_8F_E4M3;
    check(lt.cublasLtMatmulDescCreate(&desc, integers ? CUBLAS_COMPUTE_32I : CUBLAS_COMPUTE_32F,
                                      integers ? CUDA_R_32I : CUDA_R_32F),
          "cublasLtMatmulDescCreate");
    set(s.over_rows ? CUBLASLT_MATMUL_DESC_TRANSB : CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_T);
    if (s.kind == GemmKind::e4m3 || s.kind == GemmKind::e4m3_scaled) set(CUBLASLT_MATMUL_DESC_FAST_ACCUM, int8_t{1});
    if (s.kind == GemmKind::e4m3_scaled) {
      set(CUBLASLT_MATMUL_DESC_A_SCALE_MODE, CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F);
      set(CUBLASLT_MATMUL_DESC_B_SCALE_MODE, CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F);
      set(CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, p.weight_scales);
      set(CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, p.x_scales);
    }
    if (s.over_rows) {
      layout(weight, type, s.n, s.k, s.weight_pitch);
      layout(x, type, s.m, s.k, s.x_pitch > 0 ? s.x_pitch : s.m);
    } else {
      layout(weight, type, s.k, s.n, s.weight_pitch);
      layout(x, type, s.k, s.m, s.x_pitch > 0 ? s.x_pitch : s.k);
    }
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

static_assert(sizeof(cublasLtMatmulAlgo_t) == std::tuple_size_v<GemmAlgorithm>);

using Key = std::tuple<GemmKind, DType, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, bool>;
Key key_of(const GemmShape& s, int64_t m) {
  return {s.kind, s.y_type, m, s.n, s.k, s.weight_pitch, s.y_pitch, s.x_pitch, s.over_rows};
}

}  // namespace

struct CublasLt::State {
  cublasLtHandle_t handle = nullptr;
  DeviceBuffer workspace{kWorkspaceBytes};
  std::map<Key, std::vector<cublasLtMatmulAlgo_t>> algorithms;  // empty: the library has none; first: what runs
  std::map<Key, FoundGemm> timed;                               // of those, whose first was measured

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
      if (top.over_rows && top.x_pitch > 0) top.x_pitch = std::max(top.x_pitch, m);
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
    const bool integers = shape.kind == GemmKind::int8;
    const void* alpha = integers ? static_cast<const void*>(&one) : &p.alpha;
    const void* beta = integers ? static_cast<const void*>(&none) : &p.beta;
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
  constexpr int kRuns = 5;
  GemmShape top = shape;
  top.m = bucket(shape.m);
  const Problem problem(top, pointers);
  state_->algorithms_at(shape, top.m);
  std::vector<cublasLtMatmulAlgo_t>& candidates = state_->algorithms[key_of(shape, top.m)];
  size_t best = 0;
  float best_us = 0;
  for (size_t i = 0; i < candidates.size(); ++i) {
    const auto multiply = [&] { return state_->multiply(top, problem, pointers, candidates[i], stream); };
    if (multiply() != CUBLAS_STATUS_SUCCESS) continue;
    const auto us =
        static_cast<float>(median_us(stream, flush, flush_bytes, kRuns, [&] { check(multiply(), "cublasLtMatmul"); }));
    if (best_us == 0 || us < best_us) {
      best = i;
      best_us = us;
    }
  }
  if (candidates.empty()) return best_us;
  std::swap(candidates[0], candidates[best]);
  FoundGemm& found = state_->timed[key_of(top, top.m)];
  found.shape = top;
  std::memcpy(found.algorithm.data(), &candidates[0], sizeof candidates[0]);
  found.us = best_us;
  return best_us;
}

bool CublasLt::was_timed(const GemmShape& shape) const {
  return state_->timed.contains(key_of(shape, bucket(shape.m)));
}

std::vector<FoundGemm> CublasLt::timed() const {
  std::vector<FoundGemm> all;
  for (const auto& [key, found] : state_->timed) all.push_back(found);
  return all;
}

bool CublasLt::adopt(const FoundGemm& found) {
  if (found.shape.m != bucket(found.shape.m)) return false;
  cublasLtMatmulAlgo_t algorithm;
  std::memcpy(&algorithm, found.algorithm.data(), sizeof algorithm);
  if (!state_->fits(Problem(found.shape, state_->any_pointers()), algorithm)) return false;
  const Key key = key_of(found.shape, found.shape.m);
  state_->algorithms[key] = {algorithm};
  state_->timed[key] = found;
  return true;
}

int64_t CublasLt::version() {
  return static_cast<int64_t>(library().cublasLtGetVersion());
}

}  // namespace qg
