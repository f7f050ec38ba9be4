// A kernel's two calls, forward and backward, and how their work is shared.
//
// Each thread takes some rows of the batch through the whole sequence; or, where rows are few, all threads go through
// it together, each with some of the features (a range of panels in every width).
#pragma once
#include "backward.h"
#include "forward.h"

// How many threads share the features of a batch of few rows.
template <class Cell>
static int members(const Pool& pool, const Sizes& size) {
  const int panels = padded(size.more[0]) / PANEL, most = panels / 2 > 1 ? panels / 2 : 1;
  const double work = (double)size.T * size.B * size.more[0] * size.more[0] * Cell::GATES;
  return work < 1e6 ? 1 : most < pool.threads ? most : pool.threads;
}

// How many parts the batch is cut into; 1 where the threads had better share the features.
static inline int parts(const Pool& pool, int B) {
  const int most = B < 2 * TILE ? 1 : B / 4;
  return most < pool.threads ? most : pool.threads;
}
static inline int cut(int B, int part, int count) {
  const int exact = (int)((int64_t)B * part / count), whole = (exact + TILE / 2) / TILE * TILE;
  return part == count || B < 4 * TILE * count ? exact : whole;
}

template <class Cell>
static void forward(const Pool& pool, const Sizes& size, const float* const* in, float* const* out) {
  Forward<Cell> pass(size, in, out);
  const int B = size.B, count = parts(pool, B);
  if (count == 1)
    return as_team(pool, members<Cell>(pool, size), [&](Team& team, int member) { pass.run(0, B, team, member); });
  in_parts(pool, count, [&](int part) {
    Team alone;
    pass.run(cut(B, part, count), cut(B, part + 1, count), alone, 0);
  });
}

template <class Cell>
static void backward(const Pool& pool, const Sizes& size, const float* const* in, float* const* out) {
  const int B = size.B, count = parts(pool, B);
  Backward<Cell> pass(size, (B + count - 1) / count, in, out);
  std::vector<typename Backward<Cell>::Weights> weights;
  for (int part = 0; part < count; part++) {
    const int own = count == 1 ? members<Cell>(pool, size) : 1, rows = cut(B, part + 1, count) - cut(B, part, count);
    weights.push_back(pass.weights(part == 0));
    weights.back().columns = pass.scratch.take(own * pass.columns_floats(rows));
    weights.back().rows = pass.scratch.take(own * pass.rows_floats(rows));
  }
  if (count == 1)
    return as_team(pool, members<Cell>(pool, size),
                   [&](Team& team, int member) { pass.run(0, B, team, member, weights[0]); });
  in_parts(pool, count, [&](int part) {
    Team alone;
    pass.run(cut(B, part, count), cut(B, part + 1, count), alone, 0, weights[part]);
  });
  for (int part = 1; part < count; part++)
    pass.each(weights[0], weights[part], [](float*& total, float*& more, size_t floats) {
      for (size_t i = 0; i < floats; i++) total[i] += more[i];
    });
}
