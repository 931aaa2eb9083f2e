// Random shapes of element-wise, sequence and loss kernels, in buffers exactly as long as
// the descriptors say: for the sanitizers. Values are compared in Python; here only what
// must hold for any: finite results, and gradients of zero where dy is zero.
#pragma once
#include "fe_batch.h"
#include "fe_elementwise.h"
#include "fe_loss.h"
#include "fe_sequence.h"

static void finite(const char* what, Tensor& t) {
  for (size_t i = 0; i < t.n; i++)
    if (!std::isfinite((double)t[i])) {
      std::printf("%s: value %zu is not finite\n", what, i);
      worst = 1;
      return;
    }
}
static void all_zero(const char* what, Tensor& t) {
  for (size_t i = 0; i < t.n; i++)
    if (t[i] != 0) {
      std::printf("%s: value %zu is not zero\n", what, i);
      worst = 1;
      return;
    }
}

static void activation_case() {
  const int count = 4 * pick(1, 40);
  for (int kind = 0; kind < FE_ACTIVATIONS; kind++) {
    const FeActivation d{kind, pick(1, 3), count, 0.1, 6};
    Tensor x(count), y(count), dy(count, false), dx(count);
    // Logarithms, roots and powers are of what is above zero.
    const bool bounded = kind == FE_LOG || kind == FE_SQRT || kind == FE_RECIPROCAL || kind == FE_POWER;
    for (int i = 0; bounded && i < count; i++) x.p[i] = std::fabs(x.p[i]) + (real)0.1;
    check(fe_activation_forward(&d, x.p, y.p), "activation_forward");
    const real* saved = fe_activation_saves(&d) == FE_SAVES_INPUT ? x.p : y.p;
    check(fe_activation_backward(&d, saved, dy.p, dx.p), "activation_backward");
    finite("activation", y);
    all_zero("activation dx", dx);
  }
}

static void broadcast_case() {
  const int L = 4 << pick(0, 2), NB = pick(1, 3);
  FeBinary d{};
  d.kind = pick(0, 2);
  d.lanes = L;
  d.blocks = NB;
  d.threads = pick(1, 3);
  d.dims = pick(0, 4);
  int64_t own[2] = {1, 1}, out = 1;
  for (int i = d.dims - 1; i >= 0; i--) {
    d.shape[i] = pick(1, 5);
    out *= d.shape[i];
    for (int t = 0; t < 2; t++) {
      if (pick(0, 1)) continue;
      d.stride[t][i] = own[t];
      own[t] *= d.shape[i];
    }
  }
  for (int t = 0; t < 2; t++) {
    d.elements[t] = own[t];
    d.batched[t] = t == 0 || pick(0, 1);
  }
  const size_t n0 = (size_t)own[0] * NB * L, n1 = (size_t)own[1] * (d.batched[1] ? NB * L : 1);
  Tensor a(n0), b(n1), da(n0), db(n1), y((size_t)out * NB * L), dy(y.n, false);
  check(fe_binary_forward(&d, a.p, b.p, y.p), "binary_forward");
  check(fe_binary_backward(&d, a.p, b.p, dy.p, da.p, db.p), "binary_backward");
  all_zero("binary da", da);
  all_zero("binary db", db);
  const FeDropout drop{L, NB, pick(1, 3), 3, out, 7, pick(0, 4) / 4.0};
  check(fe_dropout(&drop, y.p, dy.p), "dropout");
  finite("dropout", dy);
}

static void layer_norm_case() {
  const int L = 4 << pick(0, 2), N = pick(1, 3 * L), NB = (N + L - 1) / L;
  const int rows = pick(1, 4), width = pick(1, 20);
  const FeLayerNorm d{N, L, NB, pick(1, 3), rows, width, 0, 1e-5};
  const size_t count = (size_t)NB * rows * width * L, moments = (size_t)NB * rows * L;
  Tensor x(count), y(count), dy(count, false), dx(count), mean(moments), istd(moments);
  Tensor gamma(width), beta(width), dgamma(width), dbeta(width);
  check(fe_layer_norm_forward(&d, x.p, gamma.p, beta.p, y.p, mean.p, istd.p), "layer_norm");
  check(fe_layer_norm_backward(&d, x.p, dy.p, gamma.p, mean.p, istd.p, dx.p, dgamma.p, dbeta.p),
        "layer_norm_backward");
  finite("layer_norm", y);
  all_zero("layer_norm dx", dx);
  all_zero("layer_norm dgamma", dgamma);
}

static void axis_case() {
  const int L = 4 << pick(0, 2), NB = pick(1, 3), outer = pick(1, 4), n = pick(1, 6);
  const int inner = pick(1, 4);
  const FeAxis d{L, NB, pick(1, 3), pick(0, 1), outer, n, inner, 0.5};
  const size_t whole = (size_t)NB * outer * n * inner * L, rest = whole / n;
  Tensor x(whole), y(whole), dy(whole, false), dx(whole), s(rest), ds(rest, false);
  check(fe_softmax_forward(&d, x.p, y.p), "softmax");
  check(fe_softmax_backward(&d, y.p, dy.p, dx.p), "softmax_backward");
  finite("softmax", y);
  all_zero("softmax dx", dx);
  check(fe_sum_forward(&d, x.p, s.p), "sum");
  check(fe_sum_backward(&d, ds.p, dx.p), "sum_backward");
  all_zero("sum dx", dx);
  // The axis turned round and moved to the front.
  FeCopy c{L, NB, pick(1, 3), 3, {n, outer, inner}, {}, {}, {}};
  const int64_t from[3] = {-inner, (int64_t)n * inner, 1}, to[3] = {outer * inner, inner, 1};
  for (int i = 0; i < 3; i++) {
    c.stride[0][i] = from[i];
    c.stride[1][i] = to[i];
  }
  c.offset[0] = (int64_t)(n - 1) * inner;
  c.elements[0] = c.elements[1] = (int64_t)outer * n * inner;
  check(fe_copy(&c, x.p, dx.p), "copy");
  c.offset[0]++;
  if (fe_copy(&c, x.p, dx.p) != FE_BAD_ARGUMENT) worst = 1;
}

static void windows_case() {
  const int L = 4 << pick(0, 2), NB = pick(1, 3), outer = pick(1, 3), size = pick(1, 5);
  const int length = size + pick(0, 9), hop = pick(1, 7), count = (length - size) / hop + 1;
  const FeWindows d{L, NB, pick(1, 3), outer, length, size, hop};
  const size_t rows = (size_t)NB * outer * L;
  Tensor x(rows * length), y(rows * count * size), dy(y.n, false), dx(x.n);
  check(fe_windows(&d, x.p, y.p), "windows");
  finite("windows", y);
  check(fe_overlap_add(&d, dy.p, dx.p), "overlap_add");
  all_zero("windows dx", dx);
}

static void order_case() {
  const int L = 4 << pick(0, 2), N = pick(1, 3 * L), NB = (N + L - 1) / L, count = pick(1, 5);
  const FeBatchOrder d{N, L, NB, pick(1, 3), count, pick(0, 2), pick(-9, 9), pick(0, 1), 5};
  const size_t all = (size_t)NB * count * L;
  Tensor x(all), y(all), dy(all, false), dx(all);
  check(fe_batch_order_forward(&d, x.p, y.p), "batch_order");
  finite("batch_order", y);
  check(fe_batch_order_backward(&d, dy.p, dx.p), "batch_order_backward");
  all_zero("batch_order dx", dx);
  const FeDropout drop{L, NB, pick(1, 3), 3, count, 7, pick(0, 4) / 4.0};
  check(fe_shared_dropout(&drop, x.p, y.p), "shared_dropout");
  check(fe_shared_uniform(&drop, y.p), "shared_uniform");
  finite("shared_uniform", y);
}

static void attention_case() {
  const int L = 4 << pick(0, 2), NB = pick(1, 2), heads = pick(1, 3), Q = pick(1, 19);
  const int K = pick(1, 19), W = pick(1, 6), U = pick(1, 6);
  const FeAttention d{L, NB, pick(1, 3), heads, Q, K, W, U, pick(0, 1), 0, 5, pick(0, 1) * 0.25, 0.5};
  const size_t each = (size_t)NB * heads * L;
  Tensor q(each * Q * W), k(each * K * W), v(each * K * U), y(each * Q * U), logs(each * Q);
  Tensor dy(y.n, false), dq(q.n), dk(k.n), dv(v.n);
  check(fe_attention_forward(&d, q.p, k.p, v.p, y.p, logs.p), "attention");
  check(fe_attention_backward(&d, q.p, k.p, v.p, y.p, logs.p, dy.p, dq.p, dk.p, dv.p),
        "attention_backward");
  finite("attention", y);
  all_zero("attention dq", dq);
  all_zero("attention dk", dk);
  all_zero("attention dv", dv);
}

static void loss_case() {
  const int L = 4 << pick(0, 2), N = pick(1, 3 * L), NB = (N + L - 1) / L;
  const int C = pick(1, 6), P = pick(1, 4);
  const FeClassLoss d{N, L, NB, pick(1, 3), C, P, 0, 1, pick(0, 1) * 0.1};
  const size_t at = (size_t)NB * P * L;
  Tensor x(at * C), labels(at), weight(C), logs(at), dx(at * C);
  for (size_t i = 0; i < at; i++) labels[i] = (real)pick(0, C - 1);
  double total = 0;
  int32_t sample;
  check(fe_class_loss_weight(&d, labels.p, weight.p, &total, &sample), "class_loss_weight");
  check(fe_class_loss_forward(&d, x.p, labels.p, weight.p, logs.p, &total, &sample), "class_loss");
  check(fe_class_loss_backward(&d, x.p, labels.p, weight.p, logs.p, 0.5, dx.p), "class_backward");
  finite("class loss dx", dx);
  for (int kind = 0; kind < FE_VALUE_LOSSES; kind++) {
    const FeValueLoss value{kind, N, L, NB, pick(1, 3), (int64_t)C * P, 0.5};
    Tensor target(at * C);
    check(fe_value_loss_forward(&value, x.p, target.p, nullptr, &total, &sample), "value_loss");
    check(fe_value_loss_backward(&value, x.p, target.p, nullptr, 0.5, dx.p), "value_backward");
    finite("value loss dx", dx);
  }
}

static void sequence_cases() {
  activation_case();
  broadcast_case();
  layer_norm_case();
  axis_case();
  windows_case();
  order_case();
  attention_case();
  loss_case();
}
