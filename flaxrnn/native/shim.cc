// What XLA calls: it finds a kernel by its name, and hands over arrays, sizes and XLA's own pool of threads.
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

struct Pool {
  void* context;
  int threads;
  void (*schedule)(void* context, void (*work)(void*), void* data);
};
using Kernel = void(const Pool*, const int64_t* sizes, const float* const* in, float* const* out);

static std::mutex mutex;
static std::map<std::string, Kernel*>& kernels() {
  static auto* all = new std::map<std::string, Kernel*>;  // never destroyed: a call may still run when the process ends
  return *all;
}

extern "C" void register_kernel(const char* name, void* kernel) {
  std::lock_guard<std::mutex> lock(mutex);
  kernels()[name] = reinterpret_cast<Kernel*>(kernel);
}

static ffi::Error Run(ffi::RemainingArgs args, ffi::RemainingRets rets, ffi::ThreadPool threads, std::string_view name,
                      ffi::Span<const int64_t> sizes) {
  Kernel* kernel = nullptr;
  {
    std::lock_guard<std::mutex> lock(mutex);
    const auto found = kernels().find(std::string(name));
    if (found != kernels().end()) kernel = found->second;
  }
  if (!kernel)
    return ffi::Error::Internal(
        "flaxrnn has not loaded the native kernel '" + std::string(name) +
        "' in this process: run the program with JAX's compilation from scratch, or with FLAXRNN_NATIVE=0");
  std::vector<const float*> in;
  std::vector<float*> out;
  for (size_t i = 0; i < args.size(); i++) {
    auto array = args.get<ffi::AnyBuffer>(i);
    if (!array || array->element_type() != ffi::F32)
      return ffi::Error::InvalidArgument("a native kernel takes float32 arrays");
    in.push_back(static_cast<const float*>(array->untyped_data()));
  }
  for (size_t i = 0; i < rets.size(); i++)
    out.push_back(static_cast<float*>((*rets.get<ffi::AnyBuffer>(i))->untyped_data()));
  const Pool pool{&threads, static_cast<int>(threads.num_threads()),
                  [](void* context, void (*work)(void*), void* data) {
                    static_cast<ffi::ThreadPool*>(context)->Schedule([work, data] { work(data); });
                  }};
  kernel(&pool, sizes.begin(), in.data(), out.data());
  return ffi::Error::Success();
}

XLA_FFI_DEFINE_HANDLER_SYMBOL(run, Run,
                              ffi::Ffi::Bind()
                                  .RemainingArgs()
                                  .RemainingRets()
                                  .Ctx<ffi::ThreadPool>()
                                  .Attr<std::string_view>("kernel")
                                  .Attr<ffi::Span<const int64_t>>("sizes"));

// Adds one to a few numbers by way of the pool: called when the shim is new.
static ffi::Error Probe(ffi::Buffer<ffi::F32> in, ffi::Result<ffi::Buffer<ffi::F32>> out, ffi::ThreadPool threads) {
  for (size_t i = 0; i < in.element_count(); i++) out->typed_data()[i] = in.typed_data()[i] + 1;
  return threads.num_threads() >= 0 ? ffi::Error::Success() : ffi::Error::Internal("there is no pool of threads");
}

XLA_FFI_DEFINE_HANDLER_SYMBOL(
    probe, Probe, ffi::Ffi::Bind().Arg<ffi::Buffer<ffi::F32>>().Ret<ffi::Buffer<ffi::F32>>().Ctx<ffi::ThreadPool>());
