// The loop over time, forward: products, a cell's phases, masks and resets.
#pragma once
#include "pass.h"

template <class Cell>
struct Forward : Pass<Cell> {
  using Base = Pass<Cell>;
  using Row = RowOf<Cell>;
  using Base::at, Base::T, Base::B, Base::I, Base::size;
  float *y, *final_state[Cell::FIELDS], *saved = nullptr, *before[Cell::FIELDS] = {};
  float *now[2][Cell::FIELDS], *z, *values[Cell::VALUES + 1], *packed_input, *packed[Cell::PRODUCTS][16];
  int chunk;  // how many steps are projected at once

  Forward(const Sizes& size, const float* const* in, float* const* out) : Base(size, in) {
    y = *out++;
    for (int f = 0; f < Cell::FIELDS; f++) final_state[f] = *out++;
    if (size.save) {
      saved = *out++;
      for (int f = 0; f < Cell::FIELDS; f++)
        if (this->is_kept(f)) {
          before[f] = *out++;
        }
    }
    for (auto& fields : now)
      for (int f = 0; f < Cell::FIELDS; f++) fields[f] = this->scratch.take((size_t)B * this->state_row[f]);
    for (int v = 0; v < Cell::VALUES; v++) values[v] = this->scratch.take((size_t)B * this->value_row[v]);
    chunk = B >= 4 * TILE ? 1 : (4 * TILE + B - 1) / B;
    if (chunk > T) chunk = T;
    z = this->scratch.take((size_t)chunk * B * this->z_row);
    const int H = at.width[0], panels = padded(H);
    packed_input = this->scratch.take((size_t)Cell::GATES * panels * I);
    for (int g = 0; g < Cell::GATES; g++)
      pack(I, H, {this->input_kernel + (size_t)g * H, Cell::GATES * H, 1}, packed_input + (size_t)g * panels * I);
    for (int p = 0; p < Cell::PRODUCTS; p++) {
      const Product& product = Cell::PRODUCT[p];
      const int K = at.width[product.value_width], N = at.width[product.width];
      for (int b = 0; b < product.blocks; b++) {
        packed[p][b] = this->scratch.take((size_t)K * padded(N));
        pack(K, N, {this->kernel[product.kernel] + (size_t)(product.first + b) * N, this->columns[product.kernel], 1},
             packed[p][b]);
      }
    }
  }

  // The projection of `count` steps from `step` on.
  void project(int step, int count, int b0, int b1, const Range<Cell>& own) {
    const int H = at.width[0], t = this->time(step);
    const ptrdiff_t x_time = size.reverse ? -size.x_time : size.x_time;
    for (int g = 0; g < Cell::GATES; g++) {
      const Start start{false, this->bias ? this->bias + (size_t)g * H : nullptr};
      const float* B_ = packed_input + (size_t)g * padded(H) * I;
      float* C = z + at.z[Cell::X_SLOT[g]];
      const float* A = this->x + (size_t)t * size.x_time;
      if (b1 - b0 >= count) {
        for (int s = 0; s < count; s++)
          multiply<false>(b1 - b0, own.first[0], own.last[0], I, {A + s * x_time + b0 * size.x_row, size.x_row, 1}, B_,
                          C + ((size_t)s * B + b0) * this->z_row, this->z_row, start);
      } else {
        for (int b = b0; b < b1; b++)
          multiply<false>(count, own.first[0], own.last[0], I, {A + b * size.x_row, x_time, 1}, B_,
                          C + (size_t)b * this->z_row, (ptrdiff_t)B * this->z_row, start);
      }
    }
  }

  // The states before the step `t`: those of the rows that are reset there.
  void reset(float* const* state, int t, int b0, int b1, const Range<Cell>& own) {
    if (!this->resets) return;
    for (int b = b0; b < b1; b++)
      if (this->is_reset(t, b))
        for (int f = 0; f < Cell::FIELDS; f++)
          this->copy(state[f] + (size_t)b * this->state_row[f],
                     this->reset_state[f] + (size_t)b * this->width_of_field(f), own, Cell::FIELD_WIDTH[f]);
  }

  template <int PHASE, int WIDTH, bool SAVE>
  void phase_of_width(const Row& r, const Range<Cell>& own) {
    this->over(own.first[WIDTH], own.last[WIDTH],
               [&](int j, auto l) { Cell::template forward<PHASE, WIDTH, SAVE>(at, r, j, l); });
    if constexpr (WIDTH + 1 < Cell::WIDTHS) phase_of_width<PHASE, WIDTH + 1, SAVE>(r, own);
  }

  Row row(int t, int s, int b) {
    Row r;
    this->fill(r, b);
    for (int f = 0; f < Cell::FIELDS; f++) {
      r.s[f] = now[0][f] + (size_t)b * this->state_row[f];
      r.n[f] = now[1][f] + (size_t)b * this->state_row[f];
    }
    r.y = y + t * size.y_time + b * size.y_row;
    r.z = z + ((size_t)s * B + b) * this->z_row;
    r.saved = saved ? saved + ((size_t)t * B + b) * this->saved_row : nullptr;
    for (int v = 0; v < Cell::VALUES; v++) r.v[v] = values[v] + (size_t)b * this->value_row[v];
    return r;
  }

  template <int PHASE>
  void phase(int t, int s, int parity, int b0, int b1, const Range<Cell>& own, Team& team) {
    if constexpr (PHASE > 0) {
      const Product& product = Cell::PRODUCT[PHASE - 1];
      const int K = at.width[product.value_width], w = product.width;
      const float* A = product.field >= 0 ? now[parity][product.field < 0 ? 0 : product.field]
                                          : values[product.value < 0 ? 0 : product.value];
      const ptrdiff_t row = product.field >= 0 ? this->state_row[product.field < 0 ? 0 : product.field]
                                               : this->value_row[product.value < 0 ? 0 : product.value];
      for (int block = 0; block < product.blocks; block++)
        multiply<false>(b1 - b0, own.first[w], own.last[w], K, {A + b0 * row, row, 1}, packed[PHASE - 1][block],
                        z + ((size_t)s * B + b0) * this->z_row + at.z[product.slot + block], this->z_row,
                        {product.add[block] != 0, nullptr});
    }
    for (int b = b0; b < b1; b++) {
      Row r = row(t, s, b);
      if (parity)
        for (int f = 0; f < Cell::FIELDS; f++) {
          float* const after = r.n[f];
          r.n[f] = const_cast<float*>(r.s[f]);
          r.s[f] = after;
        }
      if (saved)
        phase_of_width<PHASE, 0, true>(r, own);
      else
        phase_of_width<PHASE, 0, false>(r, own);
    }
    if constexpr (PHASE < Cell::PRODUCTS) {
      if (Cell::PRODUCT[PHASE].value >= 0) team.wait();  // its product needs the values of all features
      phase<PHASE + 1>(t, s, parity, b0, b1, own, team);
    }
  }

  // Takes rows b0 to b1 through the sequence; of each, the features of one member of a team.
  void run(int b0, int b1, Team& team, int member) {
    const Range<Cell> own = this->range(team, member);
    for (int f = 0; f < Cell::FIELDS; f++)
      for (int b = b0; b < b1; b++)
        this->copy(now[0][f] + (size_t)b * this->state_row[f], this->state[f] + (size_t)b * this->width_of_field(f),
                   own, Cell::FIELD_WIDTH[f]);
    reset(now[0], this->time(0), b0, b1, own);
    team.wait();
    for (int step = 0; step < T; step++) {
      const int s = step % chunk, t = this->time(step), parity = step & 1;
      if (s == 0) project(step, T - step < chunk ? T - step : chunk, b0, b1, own);
      for (int f = 0; f < Cell::FIELDS; f++)
        for (int b = b0; before[f] && b < b1; b++)
          this->copy(before[f] + ((size_t)t * B + b) * this->width_of_field(f),
                     now[parity][f] + (size_t)b * this->state_row[f], own, Cell::FIELD_WIDTH[f]);
      phase<0>(t, s, parity, b0, b1, own, team);
      for (int b = b0; this->mask && b < b1; b++)
        if (!this->valid(t, b)) {
          for (int f = 0; f < Cell::FIELDS; f++)
            this->copy(now[1 - parity][f] + (size_t)b * this->state_row[f],
                       now[parity][f] + (size_t)b * this->state_row[f], own, Cell::FIELD_WIDTH[f]);
          this->zero(y + t * size.y_time + b * size.y_row, own, Cell::OUTPUT_WIDTH);
        }
      if (step + 1 < T) reset(now[1 - parity], this->time(step + 1), b0, b1, own);
      team.wait();
    }
    for (int f = 0; f < Cell::FIELDS; f++)
      for (int b = b0; b < b1; b++)
        this->copy(final_state[f] + (size_t)b * this->width_of_field(f), now[T & 1][f] + (size_t)b * this->state_row[f],
                   own, Cell::FIELD_WIDTH[f]);
  }
};
