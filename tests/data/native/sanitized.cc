// A program that runs a kernel forward and backward, without Python and XLA, for a sanitizer to watch.
// KERNEL is the file with the kernel's C++. Every array has exactly the size that it must have.
#include KERNEL

#include <condition_variable>
#include <cstdio>
#include <deque>
#include <random>

// A pool as XLA has one: a queue, and threads that take from it.
class Threads {
 public:
  explicit Threads(int count) {
    for (int i = 0; i < count; i++) threads_.emplace_back([this] { loop(); });
  }
  ~Threads() {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      over_ = true;
    }
    changed_.notify_all();
    for (auto& thread : threads_) thread.join();
  }
  static void schedule(void* self, void (*work)(void*), void* data) {
    Threads& threads = *static_cast<Threads*>(self);
    if (threads.threads_.empty()) return work(data);
    std::lock_guard<std::mutex> lock(threads.mutex_);
    threads.queue_.push_back({work, data});
    threads.changed_.notify_one();
  }

 private:
  void loop() {
    for (;;) {
      std::unique_lock<std::mutex> lock(mutex_);
      changed_.wait(lock, [this] { return over_ || !queue_.empty(); });
      if (queue_.empty()) return;
      const auto [work, data] = queue_.front();
      queue_.pop_front();
      lock.unlock();
      work(data);
    }
  }
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::pair<void (*)(void*), void*>> queue_;
  bool over_ = false;
  std::vector<std::thread> threads_;
};

struct Arrays {
  std::vector<std::vector<float>> arrays;
  std::vector<float*> pointers;
  float* add(size_t floats) {
    arrays.emplace_back(floats);
    for (float& x : arrays.back()) x = 0.3f * draw(random);
    pointers.push_back(arrays.back().data());
    return pointers.back();
  }
  float* marks(size_t count, float share) {
    float* made = add(count);
    for (size_t i = 0; i < count; i++) made[i] = draw(random) < share;
    return made;
  }
  std::mt19937 random;
  std::normal_distribution<float> draw;
};

static double run(int threads, int T, int B, int I, const std::vector<int>& widths, bool marked, bool reverse,
                  bool time_major) {
  Threads pool_threads(threads);
  const Pool pool{&pool_threads, threads ? threads : 3, Threads::schedule};
  std::vector<int64_t> numbers;
  const int outputs = widths[Cell::OUTPUT_WIDTH];
  int64_t kept = 0;
  for (int f = 0; f < Cell::FIELDS; f++)
    if (marked || f != Cell::OUTPUT_FIELD) kept |= 1 << f;
  const auto strides = [&](int n) {
    return time_major ? std::pair<int64_t, int64_t>(B * n, n) : std::pair<int64_t, int64_t>(n, T * n);
  };
  for (int64_t n : {(int64_t)T, (int64_t)B, (int64_t)I, strides(I).first, strides(I).second, strides(outputs).first,
                    strides(outputs).second, (int64_t)reverse, (int64_t)marked, (int64_t)marked, (int64_t)1, kept,
                    (int64_t)1, (int64_t)1})
    numbers.push_back(n);
  for (int width : widths) numbers.push_back(width);
  std::vector<std::pair<int, int>> kernels(Cell::KERNELS);
  for (const Product& product : Cell::PRODUCT) {
    const int columns = kernels[product.kernel].second, end = (product.first + product.blocks) * widths[product.width];
    kernels[product.kernel] = {widths[product.value_width], end > columns ? end : columns};
  }
  for (auto& kernel : kernels) numbers.push_back(kernel.second);
  const Sizes& sizes = *reinterpret_cast<const Sizes*>(numbers.data());

  Arrays in, out, more, back;
  const int H = widths[0];
  in.add((size_t)T * B * I);
  in.add((size_t)I * Cell::GATES * H);
  in.add((size_t)Cell::GATES * H);
  for (auto& kernel : kernels) in.add((size_t)kernel.first * kernel.second);
  for (int p = 0; p < Cell::SMALL; p++)
    in.add((size_t)Cell::SMALL_ROWS[p] * widths[Cell::SMALL_WIDTH[p]] * (Cell::PER_ROW[p] ? B : 1));
  for (int f = 0; f < Cell::FIELDS; f++) in.add((size_t)B * widths[Cell::FIELD_WIDTH[f]]);
  if (marked) {
    in.marks((size_t)T * B, 0.7f);
    in.marks((size_t)T * B, -0.5f);
    for (int f = 0; f < Cell::FIELDS; f++) in.add((size_t)B * widths[Cell::FIELD_WIDTH[f]]);
  }
  out.add((size_t)T * B * outputs);
  for (int f = 0; f < Cell::FIELDS; f++) out.add((size_t)B * widths[Cell::FIELD_WIDTH[f]]);
  size_t saved = 0;
  for (int i = 0; i < Cell::SAVED; i++) saved += widths[Cell::SAVED_WIDTH[i]];
  out.add((size_t)T * B * saved);
  for (int f = 0; f < Cell::FIELDS; f++)
    if (kept >> f & 1) out.add((size_t)T * B * widths[Cell::FIELD_WIDTH[f]]);
  run_forward(&pool, &sizes, in.pointers.data(), out.pointers.data());

  std::vector<float*> known = in.pointers;
  known.push_back(out.pointers[0]);
  for (size_t i = 1 + Cell::FIELDS; i < out.pointers.size(); i++) known.push_back(out.pointers[i]);
  known.push_back(more.add((size_t)T * B * outputs));
  for (int f = 0; f < Cell::FIELDS; f++) known.push_back(more.add((size_t)B * widths[Cell::FIELD_WIDTH[f]]));
  back.add((size_t)I * Cell::GATES * H);
  back.add((size_t)Cell::GATES * H);
  for (auto& kernel : kernels) back.add((size_t)kernel.first * kernel.second);
  for (int p = 0; p < Cell::SMALL; p++)
    if (!Cell::PER_ROW[p]) back.add((size_t)Cell::SMALL_ROWS[p] * widths[Cell::SMALL_WIDTH[p]]);
  for (int i = 0; i < (marked ? 2 : 1); i++)
    for (int f = 0; f < Cell::FIELDS; f++) back.add((size_t)B * widths[Cell::FIELD_WIDTH[f]]);
  back.add((size_t)T * B * I);
  run_backward(&pool, &sizes, known.data(), back.pointers.data());

  double sum = 0;
  for (auto* arrays : {&out, &back})
    for (auto& array : arrays->arrays)
      for (float x : array) sum += fabs(x);
  return sum;
}

int main() {
  int failures = 0;
  const auto check = [&](double found, double expected) {
    if (!(fabs(found - expected) <= 1e-4 * expected)) {
      printf("%.8g, where one thread gave %.8g\n", found, expected);
      failures++;
    }
  };
  for (int B : {1, 3, 19, 40}) {
    for (int H : {5, 70}) {
      std::vector<int> widths{H};
      for (int w = 1; w < Cell::WIDTHS; w++) widths.push_back(H / 2 + w);
      for (int flags = 0; flags < 4; flags++) {
        const bool marked = flags & 1, reverse = flags & 2;
        const double expected = run(1, 23, B, 3, widths, marked, reverse, false);
        check(run(3, 23, B, 3, widths, marked, reverse, false), expected);
        check(run(0, 23, B, 3, widths, marked, reverse, false), expected);  // a pool that runs work at once
      }
    }
  }
  printf(failures ? "%d failures\n" : "agree\n", failures);
  return failures > 0;
}
