// Random cases of every kernel against naive loops in double, without Python: what the
// sanitizers and the emulator run. Prints the worst relative error; fails above 1e-4
// (1e-11 for the float64 build).
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "fe.h"

typedef FE_REAL real;
static std::mt19937 rng(1);
static int pick(int low, int high) { return low + (int)(rng() % (unsigned)(high - low + 1)); }
static double uniform() { return rng() / 4294967296.0 - 0.5; }

struct Tensor {  // 64-byte aligned, exactly as long as asked: overruns are caught
  real* p;
  size_t n;
  explicit Tensor(size_t count, bool random = true) : n(count) {
    p = (real*)aligned_alloc(64, (count * sizeof(real) + 63) / 64 * 64);
    for (size_t i = 0; i < n; i++) p[i] = random ? (real)uniform() : real(0);
  }
  Tensor(const Tensor&) = delete;
  ~Tensor() { free(p); }
  real& operator[](size_t i) { return p[i]; }
};

static double worst = 0;
static void compare(const char* what, const std::vector<double>& expected, Tensor& found) {
  double scale = 1e-9, error = 0;
  for (size_t i = 0; i < expected.size(); i++) {
    if (std::isnan(expected[i])) continue;  // anything but a NaN may be there
    scale = std::fmax(scale, std::fabs(expected[i]));
    error = std::fmax(error, std::fabs(expected[i] - (double)found[i]));
  }
  for (size_t i = 0; i < expected.size(); i++)
    if (std::isnan((double)found[i])) error = HUGE_VAL;
  if (!(error / scale <= worst)) worst = error / scale;
  if (!(error / scale < 1e-3)) std::printf("%s: error %g\n", what, error / scale);
}
static void check(int code, const char* what) {
  if (code) {
    std::printf("%s: code %d\n", what, code);
    std::exit(2);
  }
}

static void conv_case() {
  const int L = 4 << pick(0, 2), groups = pick(1, 3) == 3 ? 2 : 1;
  const int I = pick(1, 5), O = pick(1, 6) * groups, C = I * groups;
  const int KH = pick(1, 4), KW = pick(1, 4), SH = pick(1, 3), SW = pick(1, 3);
  const int PH = pick(0, 3), PW = pick(0, 3), DH = pick(1, 2), DW = pick(1, 2);
  const int H = pick(1, 9), W = pick(1, 17), NB = pick(1, 2), N = NB * L;
  if (H + 2 * PH < DH * (KH - 1) + 1 || W + 2 * PW < DW * (KW - 1) + 1) return;
  const int OH = (H + 2 * PH - DH * (KH - 1) - 1) / SH + 1;
  const int OW = (W + 2 * PW - DW * (KW - 1) - 1) / SW + 1;
  const double density = pick(0, 4) / 4.0;
  std::vector<uint8_t> keep((size_t)O * I * KH * KW);
  for (auto& k : keep) k = uniform() + 0.5 < density;
  FeStructure* s = nullptr;
  check(fe_structure_create(keep.data(), O, I, groups, KH, KW, 0, &s), "structure");
  const int64_t nnz = fe_structure_nnz(s);
  const bool relu = pick(0, 1), affine = pick(0, 1), residual = affine && pick(0, 1);
  const size_t in = (size_t)NB * C * H * W * L, out = (size_t)NB * O * OH * OW * L;
  Tensor x(in), r(in), scale((size_t)NB * C * L), shift((size_t)NB * C * L), w(nnz), bias(O);
  Tensor y(out), dy(out), dx(in), dw(nnz), db(O);
  const FePrologue pro{affine ? scale.p : nullptr, affine ? shift.p : nullptr,
                       residual ? r.p : nullptr, relu};
  const FeConv c{N, L, NB, pick(1, 3), H, W, SH, SW, PH, PW, DH, DW};
  check(fe_conv_forward(s, &c, x.p, &pro, w.p, bias.p, y.p), "conv_forward");
  const bool wants_x = pick(0, 3) > 0;
  check(fe_conv_backward(s, &c, x.p, &pro, w.p, dy.p, wants_x ? dx.p : nullptr, dw.p, db.p),
        "conv_backward");
  std::vector<double> a(in), ey(out), ex(in, 0.0), ew(nnz, 0.0), eb(O, 0.0);
  for (size_t i = 0; i < in; i++) {
    const size_t lane = i % L, plane = i / ((size_t)H * W * L);
    double v = x[i];
    if (affine) v = v * scale[plane * L + lane] + shift[plane * L + lane];
    if (residual) v += r[i];
    a[i] = relu && v <= 0 ? 0 : v;
  }
  for (int nb = 0; nb < NB; nb++) for (int o = 0; o < O; o++) for (int p = 0; p < OH * OW * L; p++) {
    const size_t at = ((size_t)nb * O + o) * OH * OW * L + p;
    ey[at] = bias[o];
    eb[o] += dy[at];
  }
  int64_t k = 0;
  for (int o = 0; o < O; o++) for (int i = 0; i < I; i++) for (int ky = 0; ky < KH; ky++)
    for (int kx = 0; kx < KW; kx++) {
      if (!keep[(((size_t)o * I + i) * KH + ky) * KW + kx]) continue;
      const int ic = o / (O / groups) * I + i;
      for (int nb = 0; nb < NB; nb++) for (int h = 0; h < OH; h++) for (int v = 0; v < OW; v++) {
        const int ih = h * SH - PH + ky * DH, iw = v * SW - PW + kx * DW;
        if (ih < 0 || ih >= H || iw < 0 || iw >= W) continue;
        for (int l = 0; l < L; l++) {
          const size_t yi = ((((size_t)nb * O + o) * OH + h) * OW + v) * L + l;
          const size_t xi = ((((size_t)nb * C + ic) * H + ih) * W + iw) * L + l;
          ey[yi] += (double)w[k] * a[xi];
          ex[xi] += (double)w[k] * dy[yi];
          ew[k] += (double)dy[yi] * a[xi];
        }
      }
      k++;
    }
  if (relu) for (size_t i = 0; i < in; i++) if (a[i] <= 0) ex[i] = 0;
  compare("conv y", ey, y);
  compare("conv dw", ew, dw);
  compare("conv db", eb, db);
  if (wants_x) compare("conv dx", ex, dx);
  fe_structure_free(s);
}

static void linear_case() {
  const int L = 4 << pick(0, 2), I = pick(1, 40), O = pick(1, 40) * pick(1, 12), NB = pick(1, 9);
  const double density = pick(0, 4) / 4.0;
  std::vector<uint8_t> keep((size_t)O * I);
  for (auto& k : keep) k = uniform() + 0.5 < density;
  FeStructure* s = nullptr;
  check(fe_structure_create(keep.data(), O, I, 1, 1, 1, 1, &s), "structure");
  const int64_t nnz = fe_structure_nnz(s);
  const int threads = pick(1, 4);
  Tensor x((size_t)NB * I * L), dx(x.n), w(nnz), bias(O), y((size_t)NB * O * L), dy(y.n);
  Tensor dw(nnz), db(O);
  check(fe_linear_forward(s, L, NB, threads, x.p, w.p, bias.p, y.p), "linear_forward");
  check(fe_linear_backward(s, L, NB, threads, x.p, w.p, dy.p, dx.p, dw.p, db.p), "backward");
  std::vector<double> ey(y.n), ex(x.n, 0.0), ew(nnz, 0.0), eb(O, 0.0);
  for (int nb = 0; nb < NB; nb++) for (int l = 0; l < L; l++) {
    int64_t k = 0;
    for (int o = 0; o < O; o++) {
      const size_t yi = ((size_t)nb * O + o) * L + l;
      ey[yi] = bias[o];
      eb[o] += dy[yi];
      for (int i = 0; i < I; i++) if (keep[(size_t)o * I + i]) {
        const size_t xi = ((size_t)nb * I + i) * L + l;
        ey[yi] += (double)w[k] * x[xi];
        ex[xi] += (double)w[k] * dy[yi];
        ew[k++] += (double)dy[yi] * x[xi];
      }
    }
  }
  compare("linear y", ey, y);
  compare("linear dx", ex, dx);
  compare("linear dw", ew, dw);
  compare("linear db", eb, db);
  fe_structure_free(s);
}

// The gradient of a norm is checked by what defines it: it is orthogonal to constants and
// to the normalised values, and dgamma, dbeta are plain sums.
static void norm_case() {
  const int L = 4 << pick(0, 2), groups = pick(0, 2), C = 4 * pick(1, 3), P = pick(4, 30);
  const int N = pick(2, 3 * L), NB = (N + L - 1) / L;
  const FeNorm n{N, L, NB, pick(1, 3), C, P, groups, 1, 0.1, 1e-5};
  const size_t count = (size_t)NB * C * P * L, moments = groups ? (size_t)NB * groups * L : C;
  Tensor x(count), dy(count), dx(count), y(count), gamma(C), beta(C), rm(C), rv(C);
  Tensor mean(moments), istd(moments), scale((size_t)NB * C * L), shift((size_t)NB * C * L);
  Tensor dgamma(C), dbeta(C);
  for (size_t i = 0; i < count; i++) {
    const int nb = (int)(i / ((size_t)C * P * L)), l = (int)(i % L);
    if (nb * L + l >= N) dy[i] = 0;
  }
  check(fe_norm_prepare(&n, x.p, gamma.p, beta.p, groups ? nullptr : rm.p, groups ? nullptr : rv.p,
                        mean.p, istd.p, scale.p, shift.p), "norm_prepare");
  const FePrologue pro{scale.p, shift.p, nullptr, 0};
  check(fe_norm_apply(&n, x.p, &pro, y.p), "norm_apply");
  check(fe_norm_backward(&n, x.p, nullptr, dy.p, gamma.p, mean.p, istd.p, dx.p, nullptr, dgamma.p,
                         dbeta.p), "norm_backward");
  std::vector<double> ey(count, NAN), eg(C, 0.0), eb(C, 0.0);  // lanes behind the samples: any
  for (int set = 0; set < (groups ? N * groups : C); set++) {
    double s = 0, q = 0, m = 0;
    const auto each = [&](auto body) {
      for (int i = 0; i < N; i++) for (int c = 0; c < C; c++) {
        if (groups ? set != i * groups + c / (C / groups) : set != c) continue;
        for (int p = 0; p < P; p++)
          body((((size_t)(i / L) * C + c) * P + p) * L + i % L, c);
      }
    };
    each([&](size_t i, int) { s += x[i]; m += 1; });
    each([&](size_t i, int) { q += (x[i] - s / m) * (x[i] - s / m); });
    const double inverse = 1 / std::sqrt(q / m + n.eps);
    double flat = 0, along = 0;
    each([&](size_t i, int c) {
      const double normal = (x[i] - s / m) * inverse;
      ey[i] = normal * gamma[c] + beta[c];
      eg[c] += dy[i] * normal;
      eb[c] += dy[i];
      flat += dx[i];
      along += dx[i] * normal;
    });
    Tensor zero(2, false);
    zero[0] = (real)(flat / (inverse * m));
    zero[1] = (real)(along / (inverse * m));
    if (std::fabs(zero[0]) > 1e-5 || std::fabs(zero[1]) > 1e-3) worst = 1;
  }
  compare("norm y", ey, y);
  compare("norm dgamma", eg, dgamma);
  compare("norm dbeta", eb, dbeta);
}

static void pool_case() {
  const int L = 4 << pick(0, 2), planes = pick(1, 4), H = pick(1, 9), W = pick(1, 9);
  const int KH = pick(1, 4), KW = pick(0, 1) ? KH : pick(1, 4), SH = pick(1, 3), SW = pick(1, 3);
  const int PH = pick(0, 1) ? pick(0, KH / 2) : 0, PW = pick(0, 1) ? pick(0, KW / 2) : 0;
  if (H + 2 * PH < KH || W + 2 * PW < KW) return;
  const int OH = (H + 2 * PH - KH) / SH + 1, OW = (W + 2 * PW - KW) / SW + 1, relu = pick(0, 1);
  const FePool p{L, planes, pick(1, 3), H, W, OH, OW, KH, KW, SH, SW, PH, PW, relu};
  Tensor x((size_t)planes * H * W * L), dx(x.n), y((size_t)planes * OH * OW * L), dy(y.n);
  std::vector<uint8_t> winner(y.n);
  check(fe_max_pool_forward(&p, x.p, y.p, winner.data()), "pool_forward");
  check(fe_max_pool_backward(&p, dy.p, winner.data(), dx.p), "pool_backward");
  std::vector<double> ey(y.n), ex(x.n, 0.0);
  for (int pl = 0; pl < planes; pl++) for (int h = 0; h < OH; h++) for (int v = 0; v < OW; v++)
    for (int l = 0; l < L; l++) {
      double best = -std::numeric_limits<double>::infinity();
      size_t at = 0;
      for (int i = h * SH - PH; i < h * SH - PH + KH; i++)
        for (int j = v * SW - PW; j < v * SW - PW + KW; j++) {
          if (i < 0 || i >= H || j < 0 || j >= W) continue;
          const size_t xi = (((size_t)pl * H + i) * W + j) * L + l;
          if (x[xi] > best) best = x[xi], at = xi;
        }
      const size_t yi = (((size_t)pl * OH + h) * OW + v) * L + l;
      ey[yi] = relu && best <= 0 ? 0 : best;
      if (!relu || best > 0) ex[at] += dy[yi];
    }
  compare("pool y", ey, y);
  compare("pool dx", ex, dx);
}

#include "recurrent_cases.h"
#include "sequence_cases.h"

int main(int argc, char** argv) {
  const int rounds = argc > 1 ? std::atoi(argv[1]) : 60;
  for (int i = 0; i < rounds; i++) {
    conv_case();
    conv_case();
    linear_case();
    norm_case();
    pool_case();
    sequence_cases();
    recurrent_case();
    embedding_case();
  }
  fe_release_scratch();
  std::printf("%d-byte vectors, %d rounds, worst relative error %.2e\n", fe_vector_bytes(), rounds,
              worst);
  return worst > (sizeof(real) == 8 ? 1e-11 : 1e-4);
}
