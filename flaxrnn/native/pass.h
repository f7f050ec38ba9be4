// What both directions of a pass over a sequence share: sizes, arguments, where numbers lie, whose features are whose.
#pragma once
#include <stdint.h>

#include "kernel.h"
#include "memory.h"
#include "threads.h"

// A product of a step, as `flaxrnn.native.plan.Multiplied`: numbers of kernels, fields, values, widths and slots.
struct Product {
  int kernel, first, blocks, field, value, value_width, width, slot, d_slot;
  int add[16];  // whether a block is added to the projection that its slot holds
};

// What a kernel is called with besides arrays. Widths, and rows and columns of each kernel, follow.
struct Sizes {
  int64_t T, B, I, x_time, x_row, y_time, y_row, reverse, masked, reset, save, kept, want_dx, bias;
  int64_t more[];
};

// Where each slot begins in a row.
template <class Cell>
struct Layout {
  int width[Cell::WIDTHS], z[Cell::Z_SLOTS + 1], dz[Cell::DZ_SLOTS + 1], saved[Cell::SAVED + 1];
};

template <class Cell>
struct RowOf {
  const float *s[Cell::FIELDS], *p[Cell::SMALL + 1], *dy, *dv[Cell::VALUES + 1];
  float *n[Cell::FIELDS], *y, *z, *saved, *v[Cell::VALUES + 1], *d[Cell::FIELDS], *dz, *q[Cell::SMALL + 1];
};

// A range of features of each width.
template <class Cell>
struct Range {
  int first[Cell::WIDTHS], last[Cell::WIDTHS];
};

// What both directions share: sizes, arguments, and the loop over features.
template <class Cell>
struct Pass {
  using Row = RowOf<Cell>;
  const Sizes& size;
  const int T, B, I;
  Layout<Cell> at;
  int z_row, dz_row, saved_row, state_row[Cell::FIELDS], value_row[Cell::VALUES + 1];
  const float *x, *input_kernel, *bias, *kernel[Cell::KERNELS], *small[Cell::SMALL + 1], *state[Cell::FIELDS];
  const float *mask = nullptr, *resets = nullptr, *reset_state[Cell::FIELDS];
  int columns[Cell::KERNELS];
  Scratch scratch;

  Pass(const Sizes& size, const float* const*& in) : size(size), T(size.T), B(size.B), I(size.I) {
    for (int w = 0; w < Cell::WIDTHS; w++) at.width[w] = size.more[w];
    z_row = place(at.z, Cell::Z_WIDTH, Cell::Z_SLOTS);
    dz_row = place(at.dz, Cell::DZ_WIDTH, Cell::DZ_SLOTS);
    saved_row = 0;
    for (int i = 0; i < Cell::SAVED; i++) {
      at.saved[i] = saved_row;
      saved_row += at.width[Cell::SAVED_WIDTH[i]];
    }
    for (int f = 0; f < Cell::FIELDS; f++) state_row[f] = padded(at.width[Cell::FIELD_WIDTH[f]]) + LANES;
    for (const Product& product : Cell::PRODUCT)
      if (product.value >= 0) value_row[product.value] = padded(at.width[product.value_width]) + LANES;
    for (int k = 0; k < Cell::KERNELS; k++) columns[k] = size.more[Cell::WIDTHS + k];
    x = *in++;
    input_kernel = *in++;
    bias = size.bias ? *in++ : nullptr;
    for (int k = 0; k < Cell::KERNELS; k++) kernel[k] = *in++;
    for (int p = 0; p < Cell::SMALL; p++) small[p] = *in++;
    for (int f = 0; f < Cell::FIELDS; f++) state[f] = *in++;
    if (size.masked) mask = *in++;
    if (size.reset) {
      resets = *in++;
      for (int f = 0; f < Cell::FIELDS; f++) reset_state[f] = *in++;
    }
  }

  int place(int* offsets, const int* widths, int count) {
    int offset = 0;
    for (int i = 0; i < count; i++) {
      offsets[i] = offset;
      offset += padded(at.width[widths[i]]);
    }
    return offset + LANES;  // no power of two: rows would share the lines of the first cache
  }

  int width_of_field(int f) const { return at.width[Cell::FIELD_WIDTH[f]]; }
  bool is_kept(int f) const { return size.kept >> f & 1; }
  int time(int step) const { return size.reverse ? T - 1 - step : step; }
  bool valid(int t, int b) const { return !mask || mask[(size_t)t * B + b] != 0; }
  bool is_reset(int t, int b) const { return resets && resets[(size_t)t * B + b] != 0 && valid(t, b); }

  // The features of one member of a team.
  Range<Cell> range(const Team& team, int member) const {
    Range<Cell> range;
    for (int w = 0; w < Cell::WIDTHS; w++) {
      const int panels = padded(at.width[w]) / PANEL;
      range.first[w] = panels * member / team.size * PANEL;
      range.last[w] = panels * (member + 1) / team.size * PANEL;
      if (range.first[w] > at.width[w]) range.first[w] = at.width[w];
      if (range.last[w] > at.width[w]) range.last[w] = at.width[w];
    }
    return range;
  }

  // The small vectors of a row.
  void fill(Row& r, int b) const {
    for (int p = 0; p < Cell::SMALL; p++)
      r.p[p] = small[p] + (Cell::PER_ROW[p] ? (size_t)b * Cell::SMALL_ROWS[p] * at.width[Cell::SMALL_WIDTH[p]] : 0);
  }

  template <class Body>
  static void over(int first, int last, const Body& body) {
    int j = first;
    for (; j + LANES <= last; j += LANES) body(j, Whole());
    if (j < last) body(j, Part{last - j});
  }

  // A copy of some features of a row.
  static void copy(float* to, const float* from, const Range<Cell>& range, int w) {
    if (range.last[w] > range.first[w])
      memcpy(to + range.first[w], from + range.first[w], sizeof(float) * (range.last[w] - range.first[w]));
  }
  static void zero(float* to, const Range<Cell>& range, int w) {
    if (range.last[w] > range.first[w])
      memset(to + range.first[w], 0, sizeof(float) * (range.last[w] - range.first[w]));
  }
};
