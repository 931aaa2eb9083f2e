// Cases of recurrent layers and embeddings for driver.cpp. A gradient is checked along one
// random direction, by central differences of a naive forward pass in double.
#pragma once
#include "fe_embedding.h"
#include "fe_recurrent.h"

struct NaiveRecurrent {
  int cell, T, H, L, NB, gates, features, offset;
  bool reverse;
  const std::vector<uint8_t>& keep;
  std::vector<double> x, w, b, h0, y, hn;

  double sigmoid(double v) const { return 1 / (1 + std::exp(-v)); }
  // Sum of dy * y, and y and the last state on the way.
  double run(const std::vector<double>& dy) {
    double total = 0;
    for (int nb = 0; nb < NB; nb++) for (int l = 0; l < L; l++) {
      std::vector<double> h(H), c(H, 0.0), p(gates * H);
      for (int j = 0; j < H; j++) h[j] = h0[((size_t)nb * H + j) * L + l];
      for (int step = 0; step < T; step++) {
        const int t = reverse ? T - 1 - step : step;
        size_t k = 0;
        for (int r = 0; r < gates * H; r++) {
          p[r] = b[r];
          for (int j = 0; j < H; j++) if (keep[(size_t)r * H + j]) p[r] += w[k++] * h[j];
        }
        const auto g = [&](int gate, int j) {
          return x[(((size_t)nb * T + t) * gates * H + gate * H + j) * L + l];
        };
        for (int j = 0; j < H; j++) {
          const double in = g(0, j);
          if (cell == FE_RNN_TANH) h[j] = std::tanh(in + p[j]);
          else if (cell == FE_RNN_RELU) h[j] = std::fmax(0, in + p[j]);
          else if (cell == FE_LSTM) {
            c[j] = sigmoid(g(1, j) + p[H + j]) * c[j] +
                   sigmoid(in + p[j]) * std::tanh(g(2, j) + p[2 * H + j]);
            h[j] = sigmoid(g(3, j) + p[3 * H + j]) * std::tanh(c[j]);
          } else {
            const double n = std::tanh(g(2, j) + sigmoid(in + p[j]) * p[2 * H + j]);
            h[j] = n + sigmoid(g(1, j) + p[H + j]) * (h[j] - n);
          }
          const size_t at = (((size_t)nb * T + t) * features + offset + j) * L + l;
          y[at] = h[j];
          total += dy[at] * h[j];
        }
      }
      for (int j = 0; j < H; j++) hn[((size_t)nb * H + j) * L + l] = h[j];
    }
    return total;
  }
};

static std::vector<double> doubles(Tensor& t) { return {t.p, t.p + t.n}; }

static void recurrent_case() {
  const int cell = pick(0, 3), gates = cell == FE_LSTM ? 4 : cell == FE_GRU ? 3 : 1;
  const int L = 4 << pick(0, 2), H = pick(1, 3) == 3 ? pick(30, 70) : pick(1, 20);
  const int T = pick(1, 6), NB = pick(1, 5), offset = pick(0, 2), features = H + offset + pick(0, 2);
  const double density = pick(0, 4) / 4.0;
  std::vector<uint8_t> keep((size_t)gates * H * H);
  for (auto& k : keep) k = uniform() + 0.5 < density;
  FeStructure* s = nullptr;
  check(fe_structure_create(keep.data(), gates * H, H, 1, 1, 1, 1, &s), "structure");
  const int64_t nnz = fe_structure_nnz(s);
  const FeRecurrent r{L, NB, pick(1, 3), cell, T, H, pick(0, 1), features, offset, 0};
  const size_t steps = (size_t)NB * T * L, state = (size_t)NB * H * L;
  Tensor x(steps * gates * H), w(nnz), b(gates * H), h0(state), y(steps * features), hn(state);
  Tensor saved(steps * fe_recurrent_saved(cell, H), false), dy(y.n), dx(x.n), dw(nnz), db(b.n);
  Tensor dh0(state);
  check(fe_recurrent_forward(s, &r, x.p, w.p, b.p, h0.p, nullptr, y.p, saved.p, hn.p, nullptr),
        "recurrent_forward");
  NaiveRecurrent naive{cell, T, H, L, NB, gates, features, offset, r.reverse != 0, keep,
                       doubles(x), doubles(w), doubles(b), doubles(h0), doubles(y), doubles(hn)};
  const std::vector<double> up = doubles(dy);
  naive.run(up);
  compare("recurrent y", naive.y, y);
  compare("recurrent hn", naive.hn, hn);
  check(fe_recurrent_backward(s, &r, w.p, h0.p, nullptr, y.p, saved.p, dy.p, nullptr, nullptr, dx.p,
                              dw.p, db.p, dh0.p, nullptr), "recurrent_backward");
  if (cell == FE_RNN_RELU) return fe_structure_free(s);  // no differences across its kink
  double found = 0, size = 1e-9;
  std::vector<double>* at[] = {&naive.x, &naive.w, &naive.b, &naive.h0};
  Tensor* gradients[] = {&dx, &dw, &db, &dh0};
  const double eps = 1e-5;
  std::vector<std::vector<double>> way(4);
  for (int k = 0; k < 4; k++)
    for (size_t i = 0; i < at[k]->size(); i++) {
      way[k].push_back(uniform());
      found += way[k][i] * (double)(*gradients[k])[i];
      size += std::fabs(way[k][i] * (double)(*gradients[k])[i]);
    }
  const auto moved = [&](double by) {
    for (int k = 0; k < 4; k++)
      for (size_t i = 0; i < at[k]->size(); i++) (*at[k])[i] += by * way[k][i];
    return naive.run(up);
  };
  const double above = moved(eps), below = moved(-2 * eps);
  const double error = std::fabs((above - below) / (2 * eps) - found) / size;
  if (!(error < 1e-5)) {
    std::printf("recurrent gradient, cell %d: error %g\n", cell, error);
    worst = 1;
  }
  fe_structure_free(s);
}

static void embedding_case() {
  const int L = 4 << pick(0, 2), V = pick(1, 30), E = pick(1, 9), P = pick(1, 5);
  const int N = pick(1, 3 * L), NB = (N + L - 1) / L;
  std::vector<uint8_t> keep((size_t)V * E);
  for (auto& k : keep) k = pick(0, 2) > 0;
  FeStructure* s = nullptr;
  check(fe_structure_create(keep.data(), V, E, 1, 1, 1, 1, &s), "structure");
  const FeEmbedding e{N, L, NB, pick(1, 3), P, pick(-1, V - 1), 0};
  Tensor tokens((size_t)NB * P * L, false), w(fe_structure_nnz(s)), dw(w.n);
  Tensor y(tokens.n * E), dy(y.n);
  std::vector<double> ey(y.n, NAN), ew(w.n, 0.0);  // lanes behind the samples: any
  for (int n = 0; n < N; n++) for (int p = 0; p < P; p++) {
    const int token = pick(0, V - 1);
    const size_t at = ((size_t)(n / L) * P + p) * L + n % L;
    tokens[at] = (real)token;
    size_t k = 0;
    for (int v = 0; v < V; v++) for (int c = 0; c < E; c++) {
      const size_t to = (((size_t)(n / L) * P + p) * E + c) * L + n % L;
      if (v == token) ey[to] = 0;
      if (!keep[(size_t)v * E + c]) continue;
      if (v == token) ey[to] = w[k];
      if (v == token && v != e.padding) ew[k] += dy[to];
      k++;
    }
  }
  check(fe_embedding_forward(s, &e, tokens.p, w.p, y.p), "embedding_forward");
  check(fe_embedding_backward(s, &e, tokens.p, dy.p, dw.p), "embedding_backward");
  compare("embedding y", ey, y);
  compare("embedding dw", ew, dw);
  fe_structure_free(s);
}
