// The loop over time, backward; and every 256 rows or so the gradients of weights and inputs.
#pragma once
#include "pass.h"

template <class Cell>
struct Backward : Pass<Cell> {
  using Base = Pass<Cell>;
  using Row = RowOf<Cell>;
  using Base::at, Base::T, Base::B, Base::I, Base::size;
  static constexpr int LAST = Cell::PRODUCT[0].field >= 0 ? 1 : 0;
  const float *y, *saved, *before[Cell::FIELDS] = {}, *dy, *d_final[Cell::FIELDS];
  float *d_input_kernel, *d_bias = nullptr, *d_kernel[Cell::KERNELS], *d_small[Cell::SMALL + 1] = {},
                         *d_state[Cell::FIELDS];
  float *d_reset[Cell::FIELDS] = {}, *dx = nullptr;
  float *d[Cell::FIELDS], *dz, *values[Cell::VALUES + 1], *dv[Cell::VALUES + 1], *packed[Cell::PRODUCTS][16],
      *packed_input;
  int chunk;  // how many steps' gradients are kept before those of the weights are formed

  // The gradients of the weights that the rows of one part give.
  struct Weights {
    float *input_kernel, *bias, *kernel[Cell::KERNELS], *small[Cell::SMALL + 1], *columns, *rows;
  };

  Backward(const Sizes& size, int rows, const float* const* in, float* const* out) : Base(size, in) {
    y = *in++;
    saved = *in++;
    for (int f = 0; f < Cell::FIELDS; f++)
      if (this->is_kept(f)) before[f] = *in++;
    dy = *in++;
    for (int f = 0; f < Cell::FIELDS; f++) d_final[f] = *in++;
    d_input_kernel = *out++;
    if (size.bias) d_bias = *out++;
    for (int k = 0; k < Cell::KERNELS; k++) d_kernel[k] = *out++;
    for (int p = 0; p < Cell::SMALL; p++)
      if (!Cell::PER_ROW[p]) d_small[p] = *out++;
    for (int f = 0; f < Cell::FIELDS; f++) d_state[f] = *out++;
    for (int f = 0; size.reset && f < Cell::FIELDS; f++) d_reset[f] = *out++;
    if (size.want_dx) dx = *out++;
    for (int f = 0; f < Cell::FIELDS; f++) d[f] = this->scratch.take((size_t)B * this->state_row[f]);
    chunk = 256 / rows < 1 ? 1 : 256 / rows;
    if (chunk > T) chunk = T;
    dz = this->scratch.take((size_t)chunk * B * this->dz_row);
    for (int v = 0; v < Cell::VALUES; v++) {
      values[v] = this->scratch.take((size_t)chunk * B * this->value_row[v]);
      dv[v] = this->scratch.take((size_t)B * this->value_row[v]);
    }
    for (int p = 0; p < Cell::PRODUCTS; p++) {
      const Product& product = Cell::PRODUCT[p];
      const int K = at.width[product.width], N = at.width[product.value_width];
      for (int b = 0; b < product.blocks; b++) {
        packed[p][b] = this->scratch.take((size_t)K * padded(N));
        pack(K, N, {this->kernel[product.kernel] + (size_t)(product.first + b) * K, 1, this->columns[product.kernel]},
             packed[p][b]);
      }
    }
    const int H = at.width[0];
    if (dx) {
      packed_input = this->scratch.take((size_t)Cell::GATES * H * padded(I));
      for (int g = 0; g < Cell::GATES; g++)
        pack(H, I, {this->input_kernel + (size_t)g * H, 1, Cell::GATES * H}, packed_input + (size_t)g * H * padded(I));
    }
  }

  size_t kernel_floats(int k) const {
    for (const Product& product : Cell::PRODUCT)
      if (product.kernel == k) return (size_t)at.width[product.value_width] * this->columns[k];
    return 0;
  }
  size_t small_floats(int p) const { return (size_t)Cell::SMALL_ROWS[p] * at.width[Cell::SMALL_WIDTH[p]]; }

  // Each array of weights' gradients, with those of another part: `use(array, other's, how many numbers)`.
  template <class Use>
  void each(Weights& w, Weights& other, const Use& use) const {
    const int H = at.width[0];
    use(w.input_kernel, other.input_kernel, (size_t)I * Cell::GATES * H);
    if (d_bias) use(w.bias, other.bias, (size_t)Cell::GATES * H);
    for (int k = 0; k < Cell::KERNELS; k++) use(w.kernel[k], other.kernel[k], kernel_floats(k));
    for (int p = 0; p < Cell::SMALL; p++)
      if (!Cell::PER_ROW[p]) use(w.small[p], other.small[p], small_floats(p));
  }

  // The first part's gradients are the results; the others are added to them in the end.
  Weights weights(bool first) {
    Weights w{d_input_kernel, d_bias, {}, {}, nullptr, nullptr};
    for (int k = 0; k < Cell::KERNELS; k++) w.kernel[k] = d_kernel[k];
    for (int p = 0; p < Cell::SMALL; p++) w.small[p] = d_small[p];
    each(w, w, [&](float*& array, float*&, size_t floats) {
      if (!first) array = this->scratch.take(floats);
      memset(array, 0, floats * sizeof(float));
    });
    return w;
  }

  template <int PHASE, int WIDTH>
  void phase_of_width(const Row& r, const Range<Cell>& own) {
    this->over(own.first[WIDTH], own.last[WIDTH],
               [&](int j, auto l) { Cell::template backward<PHASE, WIDTH>(at, r, j, l); });
    if constexpr (WIDTH + 1 < Cell::WIDTHS) phase_of_width<PHASE, WIDTH + 1>(r, own);
  }

  // Where the state before step `step` lies: kept, or the output of the step before.
  const float* state_before(int f, int step, int b) const {
    const int t = this->time(step);
    if (before[f]) return before[f] + ((size_t)t * B + b) * this->width_of_field(f);
    if (step == 0) return this->state[f] + (size_t)b * this->width_of_field(f);
    return y + this->time(step - 1) * size.y_time + b * size.y_row;
  }

  template <int PHASE>
  void phase(int step, int s, int b0, int b1, const Range<Cell>& own, Team& team, Weights& weights) {
    const int t = this->time(step);
    for (int b = b0; b < b1; b++) {
      Row r;
      r.dz = dz + ((size_t)s * B + b) * this->dz_row;
      for (int v = 0; v < Cell::VALUES; v++) {
        r.v[v] = values[v] + ((size_t)s * B + b) * this->value_row[v];
        r.dv[v] = dv[v] + (size_t)b * this->value_row[v];
      }
      if (!this->valid(t, b)) {
        for (int slot = 0; slot < Cell::DZ_SLOTS; slot++) this->zero(r.dz + at.dz[slot], own, Cell::DZ_WIDTH[slot]);
        for (const Product& product : Cell::PRODUCT)
          if (product.value >= 0) this->zero(r.v[product.value], own, product.value_width);
        continue;
      }
      this->fill(r, b);
      for (int f = 0; f < Cell::FIELDS; f++) {
        r.s[f] = state_before(f, step, b);
        r.d[f] = d[f] + (size_t)b * this->state_row[f];
      }
      r.dy = dy + t * size.y_time + b * size.y_row;
      r.saved = const_cast<float*>(saved) + ((size_t)t * B + b) * this->saved_row;
      for (int p = 0; p < Cell::SMALL; p++) r.q[p] = weights.small[p];
      phase_of_width<PHASE, 0>(r, own);
    }
    if constexpr (PHASE > 0) {
      const Product& product = Cell::PRODUCT[PHASE - 1];
      const int K = at.width[product.width], w = product.value_width;
      constexpr bool TO_FIELD = PHASE == 1 && LAST == 1;
      float* C = TO_FIELD ? d[product.field < 0 ? 0 : product.field] : dv[product.value < 0 ? 0 : product.value];
      const ptrdiff_t ldc = TO_FIELD ? this->state_row[product.field < 0 ? 0 : product.field]
                                     : this->value_row[product.value < 0 ? 0 : product.value];
      team.wait();
      for (int block = 0; block < product.blocks; block++)
        multiply<false>(b1 - b0, own.first[w], own.last[w], K,
                        {dz + ((size_t)s * B + b0) * this->dz_row + at.dz[product.d_slot + block], this->dz_row, 1},
                        packed[PHASE - 1][block], C + b0 * ldc, ldc, {TO_FIELD || block > 0, nullptr});
      if constexpr (PHASE > LAST) phase<PHASE - 1>(step, s, b0, b1, own, team, weights);
    }
  }

  // The gradients of weights and inputs over `count` steps, whose last is `step`.
  void gradients(int step, int count, int b0, int b1, const Range<Cell>& own, Team& team, Weights& weights) {
    const int rows = b1 - b0, K = count * rows, H = at.width[0];
    team.wait();
    // the columns of dz that are one's own, packed: for each slot, panel after panel
    float* panels[Cell::DZ_SLOTS];
    float* to = weights.columns;
    for (int slot = 0; slot < Cell::DZ_SLOTS; slot++) {
      const int w = Cell::DZ_WIDTH[slot];
      panels[slot] = to - (size_t)own.first[w] * K;
      for (int j = own.first[w]; j < own.last[w]; j += PANEL)
        for (int s = 0; s < count; s++)
          for (int b = b0; b < b1; b++, to += PANEL)
            memcpy(to, dz + ((size_t)s * B + b) * this->dz_row + at.dz[slot] + j, sizeof(float) * PANEL);
    }
    const auto add = [&](int M, auto row_of, int first_slot, int blocks, const int* slots, int w, float* C,
                         ptrdiff_t ldc) {
      pack_rows(M, count, b0, b1, row_of, weights.rows);
      for (int block = 0; block < blocks; block++) {
        const int slot = slots ? slots[block] : first_slot + block;
        multiply<true>(M, own.first[w], own.last[w], K, {weights.rows, 1, 1}, panels[slot],
                       C + (size_t)block * at.width[w], ldc, {true, nullptr});
      }
    };
    for (const Product& product : Cell::PRODUCT) {
      float* C = weights.kernel[product.kernel] + (size_t)product.first * at.width[product.width];
      const int M = at.width[product.value_width], columns = this->columns[product.kernel];
      if (product.field >= 0)
        add(
            M, [&](int s, int b) { return state_before(product.field, step - s, b); }, product.d_slot, product.blocks,
            nullptr, product.width, C, columns);
      else
        add(
            M,
            [&](int s, int b) { return values[product.value] + ((size_t)s * B + b) * this->value_row[product.value]; },
            product.d_slot, product.blocks, nullptr, product.width, C, columns);
    }
    add(
        I, [&](int s, int b) { return this->x + this->time(step - s) * size.x_time + b * size.x_row; }, 0, Cell::GATES,
        Cell::DX_SLOT, 0, weights.input_kernel, (ptrdiff_t)Cell::GATES * H);
    for (int g = 0; d_bias && g < Cell::GATES; g++) {
      const float* from = panels[Cell::DX_SLOT[g]];
      for (int j = own.first[0]; j < own.last[0]; j += PANEL) {
        V sum[2] = {};
        for (int k = 0; k < K; k++) {
          sum[0] += load(from + (size_t)j * K + k * PANEL, Whole());
          sum[1] += load(from + (size_t)j * K + k * PANEL + LANES, Whole());
        }
        float* bias = weights.bias + (size_t)g * H;
        for (int half = 0; half < 2; half++)
          this->over(j + half * LANES, H < j + (half + 1) * LANES ? H : j + (half + 1) * LANES,
                     [&](int i, auto l) { store(bias + i, load(bias + i, l) + sum[half], l); });
      }
    }
    if (dx) {
      const int all = padded(I) / PANEL;  // the team shares the inputs' features
      const int first = all * (own.first[0]) / padded(H) * PANEL, last = all * padded(own.last[0]) / padded(H) * PANEL;
      for (int s = 0; s < count; s++)
        for (int g = 0; g < Cell::GATES; g++)
          multiply<false>(rows, first, last < I ? last : I, H,
                          {dz + ((size_t)s * B + b0) * this->dz_row + at.dz[Cell::DX_SLOT[g]], this->dz_row, 1},
                          packed_input + (size_t)g * H * padded(I),
                          dx + this->time(step - s) * size.x_time + b0 * size.x_row, size.x_row, {g > 0, nullptr});
    }
    team.wait();
  }

  // Packs the rows `row_of(step, row of the batch)`, each of M numbers, as the left side of a product that sums over
  // them.
  template <class RowOfStep>
  void pack_rows(int M, int count, int b0, int b1, const RowOfStep& row_of, float* to) {
    const size_t K = (size_t)count * (b1 - b0);
    size_t k = 0;
    for (int s = 0; s < count; s++)
      for (int b = b0; b < b1; b++, k++) {
        const float* from = row_of(s, b);
        int i = 0;
        for (; i + TILE <= M; i += TILE) memcpy(to + i * K + k * TILE, from + i, sizeof(float) * TILE);
        for (int q = 0; i + q < M; q++) to[i * K + k * TILE + q] = from[i + q];
      }
  }

  void run(int b0, int b1, Team& team, int member, Weights weights) {
    const Range<Cell> own = this->range(team, member);
    weights.columns = weights.columns + (size_t)member * columns_floats(b1 - b0);
    weights.rows = weights.rows + (size_t)member * rows_floats(b1 - b0);
    for (int f = 0; f < Cell::FIELDS; f++)
      for (int b = b0; b < b1; b++) {
        this->copy(d[f] + (size_t)b * this->state_row[f], d_final[f] + (size_t)b * this->width_of_field(f), own,
                   Cell::FIELD_WIDTH[f]);
        if (d_reset[f]) this->zero(d_reset[f] + (size_t)b * this->width_of_field(f), own, Cell::FIELD_WIDTH[f]);
      }
    int s = 0;
    for (int step = T - 1; step >= 0; step--) {
      phase<Cell::PRODUCTS>(step, s, b0, b1, own, team, weights);
      for (int b = b0; this->resets && b < b1; b++)
        if (this->is_reset(this->time(step), b))
          for (int f = 0; f < Cell::FIELDS; f++) {
            float *from = d[f] + (size_t)b * this->state_row[f], *to = d_reset[f] + (size_t)b * this->width_of_field(f);
            this->over(own.first[Cell::FIELD_WIDTH[f]], own.last[Cell::FIELD_WIDTH[f]],
                       [&](int j, auto l) { store(to + j, load(to + j, l) + load(from + j, l), l); });
            this->zero(from, own, Cell::FIELD_WIDTH[f]);
          }
      if (++s == chunk || step == 0) {
        gradients(step + s - 1, s, b0, b1, own, team, weights);
        s = 0;
      }
    }
    for (int f = 0; f < Cell::FIELDS; f++)
      for (int b = b0; b < b1; b++)
        this->copy(d_state[f] + (size_t)b * this->width_of_field(f), d[f] + (size_t)b * this->state_row[f], own,
                   Cell::FIELD_WIDTH[f]);
  }

  size_t columns_floats(int rows) const { return (size_t)chunk * rows * this->dz_row; }
  size_t rows_floats(int rows) const {
    int most = I;
    for (const Product& product : Cell::PRODUCT)
      if (at.width[product.value_width] > most) most = at.width[product.value_width];
    return (size_t)chunk * rows * (most + TILE);
  }
};
