// Vectors of floats, the functions that gates are made of, and products of matrices, in the compiler's own vector
// types.
#pragma once
#include <math.h>
#include <stddef.h>
#include <string.h>

#if defined(__AVX512F__)
#define LANES 16
#define TILE 8  // rows of a tile of a product, two vectors wide: its sums must stay in registers
#elif defined(__AVX__)
#define LANES 8
#define TILE 6
#elif defined(__aarch64__)
#define LANES 4
#define TILE 8
#else
#define LANES 4
#define TILE 4
#endif
#define PANEL (2 * LANES)

typedef float V __attribute__((vector_size(4 * LANES)));
typedef int T __attribute__((vector_size(4 * LANES)));  // truth values: all bits or none
typedef unsigned U __attribute__((vector_size(4 * LANES)));

// How many numbers of a vector there are: all, or those up to the end of a row.
struct Whole {};
struct Part {
  int count;
};

static inline V broadcast(float x) { return V{} + x; }
static inline T truth(bool x) { return x ? T{} - 1 : T{}; }
static inline V select(T condition, V yes, V no) { return condition ? yes : no; }
static inline V load(const float* from, Whole) {
  V x;
  memcpy(&x, from, sizeof x);
  return x;
}
static inline void store(float* to, V x, Whole) { memcpy(to, &x, sizeof x); }
static inline V load(const float* from, Part part) {
  V x = {};
  for (int i = 0; i < part.count; i++) x[i] = from[i];
  return x;
}
static inline void store(float* to, V x, Part part) {
  for (int i = 0; i < part.count; i++) to[i] = x[i];
}

// NaN goes through all of these.
static inline V max_(V a, V b) { return (a > b) | (a != a) ? a : b; }
static inline V min_(V a, V b) { return (a < b) | (a != a) ? a : b; }
static inline V abs_(V x) { return (V)((U)x & 0x7fffffffu); }
static inline V sign_(V x) { return (x == 0.f) | (x != x) ? x : (V)(((U)x & 0x80000000u) | 0x3f800000u); }

// x brought between two constants; NaN stays. One instruction each, since the constant comes first.
static inline V between(float low, float high, V x) {
  const V raised = low > x ? broadcast(low) : x;
  return high < raised ? broadcast(high) : raised;
}

// Within 2 ulp: x = n log 2 + r, and a polynomial of r (Cephes).
static inline V exp_(V x) {
  x = between(-104.f, 89.f, x);
  const float magic = 12582912.f;  // 1.5 * 2^23: in a sum with it, the last bits are an integer
  const V shifted = x * 1.44269504088896341f + magic;
  const V n = shifted - magic;
  const V r = x - n * 0.693359375f - n * -2.12194440e-4f;
  V p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  const U bits = (U)shifted - 0x4b400000u + 256u;  // n + 256; 2^n in two factors, since n reaches -150 and 128
  const U half = bits >> 1;
  return (p * (r * r) + r + 1.f) * (V)((half - 1u) << 23) * (V)((bits - half - 1u) << 23);
}

static inline V sigmoid_(V x) { return 1.f / (1.f + exp_(-x)); }

// Within 5 ulp: the rational function that XLA and Eigen use too.
static inline V tanh_(V x) {
  x = between(-9.f, 9.f, x);
  const V y = x * x;
  V p = y * -2.76076847742355e-16f + 2.00018790482477e-13f;
  p = p * y + -8.60467152213735e-11f;
  p = p * y + 5.12229709037114e-08f;
  p = p * y + 1.48572235717979e-05f;
  p = p * y + 6.37261928875436e-04f;
  p = p * y + 4.89352455891786e-03f;
  V q = y * 1.19825839466702e-06f + 1.18534705686654e-04f;
  q = q * y + 2.26843463243900e-03f;
  q = q * y + 4.89352518554385e-03f;
  return between(-1.f, 1.f, x * p / q);
}

// A function of the C library, number by number.
static inline V map(float (*f)(float), V x) {
  for (int i = 0; i < LANES; i++) x[i] = f(x[i]);
  return x;
}
static inline V map(float (*f)(float, float), V x, V y) {
  for (int i = 0; i < LANES; i++) x[i] = f(x[i], y[i]);
  return x;
}

static inline int padded(int n) { return (n + PANEL - 1) / PANEL * PANEL; }

// Element (i, k) of a matrix of values is `from[i * row + k * column]`.
struct Matrix {
  const float* from;
  ptrdiff_t row, column;
};

// What a product begins with: zeros, what is there, or one row for all.
struct Start {
  bool add;
  const float* bias;
};

// A tile of M rows and one panel of columns: C = start + A B, of which `count` columns are stored.
template <int M, bool PACKED>
static void tile(int K, Matrix A, const float* B, float* C, ptrdiff_t ldc, int count, Start start) {
  const ptrdiff_t row = PACKED ? 1 : A.row, column = PACKED ? TILE : 1;
  V sum[M][2];
  const Part left{count < LANES ? count : LANES}, right{count - left.count};
  for (int i = 0; i < M; i++) {
    sum[i][0] = sum[i][1] = V{};
    const float* from = start.add ? C + i * ldc : start.bias;
    if (from && count == PANEL) {
      sum[i][0] = load(from, Whole());
      sum[i][1] = load(from + LANES, Whole());
    } else if (from) {
      sum[i][0] = load(from, left);
      if (right.count) sum[i][1] = load(from + LANES, right);
    }
  }
  for (int k = 0; k < K; k++) {
    const V left_column = load(B + k * PANEL, Whole()), right_column = load(B + k * PANEL + LANES, Whole());
#pragma GCC unroll 16
    for (int i = 0; i < M; i++) {
      const V a = broadcast(A.from[i * row + k * column]);
      sum[i][0] += a * left_column;
      sum[i][1] += a * right_column;
    }
  }
  for (int i = 0; i < M; i++) {
    if (count == PANEL) {
      store(C + i * ldc, sum[i][0], Whole());
      store(C + i * ldc + LANES, sum[i][1], Whole());
    } else {
      store(C + i * ldc, sum[i][0], left);
      if (right.count) store(C + i * ldc + LANES, sum[i][1], right);
    }
  }
}

// A single row: the sums of every fourth k apart, since one chain of them would wait for itself.
static void single(int K, const float* A, const float* B, float* C, int count, Start start) {
  V sum[4][2] = {};
  const Part left{count < LANES ? count : LANES}, right{count - left.count};
  const float* from = start.add ? C : start.bias;
  if (from && count == PANEL) {
    sum[0][0] = load(from, Whole());
    sum[0][1] = load(from + LANES, Whole());
  } else if (from) {
    sum[0][0] = load(from, left);
    sum[0][1] = load(from + left.count, right);
  }
  int k = 0;
  for (; k + 4 <= K; k += 4) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
      const V a = broadcast(A[k + i]);
      sum[i][0] += a * load(B + (k + i) * PANEL, Whole());
      sum[i][1] += a * load(B + (k + i) * PANEL + LANES, Whole());
    }
  }
  for (; k < K; k++) {
    sum[0][0] += A[k] * load(B + k * PANEL, Whole());
    sum[0][1] += A[k] * load(B + k * PANEL + LANES, Whole());
  }
  const V total[2] = {(sum[0][0] + sum[1][0]) + (sum[2][0] + sum[3][0]),
                      (sum[0][1] + sum[1][1]) + (sum[2][1] + sum[3][1])};
  if (count == PANEL) {
    store(C, total[0], Whole());
    store(C + LANES, total[1], Whole());
  } else {
    store(C, total[0], left);
    store(C + left.count, total[1], right);
  }
}

template <bool PACKED, int M>
static void remaining(int rows, int K, Matrix A, const float* B, float* C, ptrdiff_t ldc, int count, Start start) {
  if constexpr (M > 0) {
    if (rows == M) return tile<M, PACKED>(K, A, B, C, ldc, count, start);
    remaining<PACKED, M - 1>(rows, K, A, B, C, ldc, count, start);
  }
}

// C = start + A B for the columns [first, last) of C, where `first` begins a panel. B is packed: panel after panel, of
// each first the row k = 0. A packed A lies tile after tile likewise.
template <bool PACKED>
static void multiply(int M, int first, int last, int K, Matrix A, const float* B, float* C, ptrdiff_t ldc,
                     Start start) {
  for (int j = first; j < last; j += PANEL) {
    const float* panel = B + (size_t)j * K;
    const int count = last - j < PANEL ? last - j : PANEL;
    const Start own{start.add, start.bias ? start.bias + j : nullptr};
    int i = 0;
    for (; i + TILE <= M; i += TILE) {
      const Matrix rows{A.from + i * (PACKED ? (ptrdiff_t)K : A.row), A.row, A.column};
      tile<TILE, PACKED>(K, rows, panel, C + i * ldc + j, ldc, count, own);
    }
    const Matrix rows{A.from + i * (PACKED ? (ptrdiff_t)K : A.row), A.row, A.column};
    if (!PACKED && M - i == 1)
      single(K, rows.from, panel, C + i * ldc + j, count, own);
    else
      remaining<PACKED, TILE - 1>(M - i, K, rows, panel, C + i * ldc + j, ldc, count, own);
  }
}

// Packs element (k, n) = from[k * row + n * column] of a matrix [K, N] as `multiply` takes it.
static void pack(int K, int N, Matrix from, float* to) {
  for (int j = 0; j < N; j += PANEL, to += (size_t)K * PANEL) {
    const int count = N - j < PANEL ? N - j : PANEL;
    const float* B = from.from + j * from.column;
    if (from.column == 1) {
      for (int k = 0; k < K; k++) {
        memcpy(to + k * PANEL, B + k * from.row, sizeof(float) * count);
        for (int q = count; q < PANEL; q++) to[k * PANEL + q] = 0;
      }
    } else {
      for (int q = 0; q < PANEL; q++)
        for (int k = 0; k < K; k++) to[k * PANEL + q] = q < count ? B[k * from.row + q * from.column] : 0;
    }
  }
}
