#include "kernels/blas.h"

#include <cblas.h>

#include <cmath>
#include <vector>

#include "core/error.h"
#include "core/rng.h"

namespace qg {
namespace {

struct Product {
  int m, n, k;
  CBLAS_TRANSPOSE transpose_b;
};

std::vector<float> random_values(int count, uint64_t stream) {
  std::vector<float> values(static_cast<size_t>(count));
  Rng rng(1, stream);
  for (float& v : values) v = static_cast<float>(rng.next_uniform()) - 0.5f;
  return values;
}

bool is_right(const Product& p) {
  const std::vector<float> a = random_values(p.m * p.k, 1), b = random_values(p.k * p.n, 2);
  std::vector<float> c(static_cast<size_t>(p.m * p.n), 0.0f);
  const bool transposed = p.transpose_b == CblasTrans;
  cblas_sgemm(CblasRowMajor, CblasNoTrans, p.transpose_b, p.m, p.n, p.k, 1.0f, a.data(), p.k, b.data(),
              transposed ? p.k : p.n, 0.0f, c.data(), p.n);
  for (int i = 0; i < p.m; ++i) {
    for (int j = 0; j < p.n; ++j) {
      double sum = 0;
      for (int t = 0; t < p.k; ++t)
        sum += static_cast<double>(a[static_cast<size_t>(i * p.k + t)]) *
               b[static_cast<size_t>(transposed ? j * p.k + t : t * p.n + j)];
      // Each of k products of at most 1/4 is rounded at most k times; anything wrong is far beyond.
      if (!(std::fabs(c[static_cast<size_t>(i * p.n + j)] - sum) < 1e-4 * p.k)) return false;
    }
  }
  return true;
}

bool check() {
  for (const Product& p :
       {Product{1, 64, 96, CblasTrans}, Product{8, 48, 64, CblasTrans}, Product{33, 65, 130, CblasTrans},
        Product{64, 128, 256, CblasTrans}, Product{17, 40, 72, CblasNoTrans}, Product{96, 96, 96, CblasNoTrans}})
    if (!is_right(p)) return false;
  return true;
}

}  // namespace

void require_sound_blas() {
  static const bool sound = check();
  if (!sound)
    throw Error("the OpenBLAS library computes wrong matrix products on this processor", "cblas_sgemm",
                "set OPENBLAS_CORETYPE=Haswell and OPENBLAS_L2_SIZE=512 in the environment and run again, or install a "
                "newer OpenBLAS",
                ExitCode::cannot_here);
}

}  // namespace qg
