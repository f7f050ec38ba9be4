// Work for several threads of a pool, in which no thread ever waits for work that has not begun: the pool's threads may
// all be inside calls such as this one.
#pragma once
#include <atomic>
#include <chrono>
#include <memory>
#include <thread>

// The pool of whoever calls a kernel.
struct Pool {
  void* context;
  int threads;
  void (*schedule)(void* context, void (*work)(void*), void* data);
};

static inline void pause(int& turns) {
  if (++turns < 4096) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
  } else {
    std::this_thread::yield();
  }
}

// `work(part)` for each part below `count`. Whoever is free takes the next part, and the caller all that nobody took.
template <class Work>
static void in_parts(const Pool& pool, int count, const Work& work) {
  struct Shared {
    const Work* work;
    int count;
    std::atomic<int> next{0}, done{0};
    void take() {
      for (int part; (part = next.fetch_add(1)) < count; done.fetch_add(1)) (*work)(part);
    }
  };
  auto shared = std::make_shared<Shared>();
  shared->work = &work;
  shared->count = count;
  for (int helper = 1; helper < count && helper < pool.threads; helper++) {
    pool.schedule(
        pool.context,
        [](void* data) {
          auto* own = static_cast<std::shared_ptr<Shared>*>(data);
          (*own)->take();  // one that comes late finds nothing to take, and looks at nothing else
          delete own;
        },
        new std::shared_ptr<Shared>(shared));
  }
  shared->take();
  for (int turns = 0; shared->done.load() < count;) pause(turns);
}

// Threads that go through a sequence together, and wait for each other at each step.
struct Team {
  int size = 1;
  std::atomic<int> arrived{0}, turn{0};
  std::atomic<int> late{0};  // how often one waited so long that another must have lost its core

  void wait() {
    if (size == 1) return;
    const int now = turn.load();
    if (arrived.fetch_add(1) == size - 1) {
      arrived.store(0);
      turn.store(now + 1);
    } else {
      int turns = 0;
      while (turn.load() == now) pause(turns);
      if (turns >= 4096) late.fetch_add(1);
    }
  }
};

// How many calls to come are for one thread alone: on a machine where others compute too, a team waits for itself.
static std::atomic<int> alone{0};

// `work(team, member)` by a team of as many threads as come within a moment, the caller among them.
template <class Work>
static void as_team(const Pool& pool, int wanted, const Work& work) {
  constexpr int CLOSED = 1 << 20, REST = 256;
  if (alone.load() > 0) {
    alone.fetch_sub(1);
    wanted = 1;
  }
  struct Shared {
    const Work* work;
    std::thread::id caller = std::this_thread::get_id();
    std::atomic<int> joined{1}, finished{0};
    std::atomic<bool> open{false};
    Team team;
  };
  auto shared = std::make_shared<Shared>();
  shared->work = &work;
  for (int helper = 1; helper < wanted; helper++) {
    pool.schedule(
        pool.context,
        [](void* data) {
          std::unique_ptr<std::shared_ptr<Shared>> own(static_cast<std::shared_ptr<Shared>*>(data));
          Shared& shared = **own;
          if (shared.caller == std::this_thread::get_id()) return;  // a pool without threads runs work at once
          int member = shared.joined.load();
          do {
            if (member & CLOSED) return;
          } while (!shared.joined.compare_exchange_weak(member, member + 1));
          for (int turns = 0; !shared.open.load();) pause(turns);
          (*shared.work)(shared.team, member);
          shared.finished.fetch_add(1);
        },
        new std::shared_ptr<Shared>(shared));
  }
  const auto until = std::chrono::steady_clock::now() + std::chrono::microseconds(100);
  int size = 1;
  while ((size = shared->joined.load()) < wanted && std::chrono::steady_clock::now() < until) std::this_thread::yield();
  while (!shared->joined.compare_exchange_weak(size, size | CLOSED)) {
  }
  shared->team.size = size;
  shared->open.store(true);
  work(shared->team, 0);
  for (int turns = 0; shared->finished.load() < size - 1;) pause(turns);
  if (shared->team.late.load() > 4) alone.store(REST);
}
