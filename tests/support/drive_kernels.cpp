// Calls every kernel on random small shapes, for valgrind: nothing outside of what was allocated is touched, and every
// output is made of written values alone. Whether they are the right ones is for fuzz_kernels.py to say.
//
// usage: drive_kernels SEED ROUNDS TOOM_COOK_POINTS FOURIER_POINTS; with 0 rounds it reads a step too many, which valgrind
// has to tell.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>

#include "menura_kernels.h"

namespace {

struct Free {
  void operator()(float* memory) const { std::free(memory); }
};
using Floats = std::unique_ptr<float[], Free>;

// Exactly as many floats, without content: one more is somebody else's.
Floats blank(size_t count) {
  void* memory = nullptr;
  if (posix_memalign(&memory, 64, count * sizeof(float)) != 0) std::abort();
  return Floats(static_cast<float*>(memory));
}

class Driver {
 public:
  Driver(unsigned seed, int toom_cook_points, int fourier_points)
      : random_(seed), toom_cook_points_(toom_cook_points), fourier_points_(fourier_points) {}

  void round() {
    const int in = channels(), out = channels(), steps = between(0, 70);
    const Floats x = noise(static_cast<size_t>(steps) * in);
    const int kernels[] = {MENURA_TOOM_COOK_6_3, MENURA_TOOM_COOK_4_5, MENURA_FOURIER_32, MENURA_DIRECT};
    for (const int algorithm : kernels) convolve(algorithm, x.get(), steps, in, out);
    blocks(x.get(), steps, in);
    upsample(x.get(), steps, in, out);
    last(x.get(), steps, in);
    front(x.get(), steps, in, out);
    image(in, out);
    recurrent(in);
    attend(between(0, 120));
    gate(steps, in);
  }

  void overrun() {
    const Floats x = noise(40 * 16), weights = noise(3 * 16 * 16), bias = noise(16), output = blank(41 * 16);
    const menura_layer layer{weights.get(), bias.get(), MENURA_DIRECT, 16, 16, 3, 1, 1, 0};
    run(menura_convolve, layer, {x.get(), output.get(), nullptr, 41, 41, 1.0f, 1.0f, MENURA_STORE, 1, 0}, 41 * 16);
  }

 private:
  int between(int low, int high) { return std::uniform_int_distribution<int>(low, high)(random_); }
  // Now and then more than the kernels take at once.
  int channels() { return MENURA_CHANNEL_MULTIPLE * (between(0, 9) == 0 ? 9 : between(1, 5)); }

  Floats noise(size_t count) {
    Floats made = blank(count);
    std::normal_distribution<float> normal(0.0f, 0.1f);
    for (size_t i = 0; i < count; ++i) made[i] = normal(random_);
    return made;
  }

  template <class Kernel>
  void run(Kernel* kernel, const menura_layer& layer, const menura_call& call, size_t outputs) {
    if (kernel(MENURA_AVX2, &layer, &call) != MENURA_OK) fail("a kernel refused its arguments");
    check(call.output, outputs);
  }

  void convolve(int algorithm, const float* x, int steps, int in, int out) {
    const bool toom_cook = algorithm == MENURA_TOOM_COOK_6_3 || algorithm == MENURA_TOOM_COOK_4_5;
    const int taps = algorithm == MENURA_TOOM_COOK_6_3   ? 3
                     : algorithm == MENURA_TOOM_COOK_4_5 ? 5
                                                         : 2 * between(algorithm == MENURA_DIRECT ? 0 : 2, 7) + 1;
    const int points = toom_cook ? toom_cook_points_ : algorithm == MENURA_FOURIER_32 ? fourier_points_ : taps;
    const Floats weights = noise(static_cast<size_t>(points) * in * out), bias = noise(out);
    const size_t size = static_cast<size_t>(steps) * out;
    const Floats residual = noise(size), output = blank(size);
    const menura_layer layer{weights.get(), bias.get(), algorithm, in, out, taps, between(1, 7), 1, 0};
    for (const int mode : {MENURA_STORE, MENURA_ADD_RESIDUAL, MENURA_START_MEAN, MENURA_ADD_TO_MEAN})
      run(menura_convolve, layer, {x, output.get(), residual.get(), steps, steps, 0.1f, 0.5f, mode, 1, 0}, size);
  }

  void blocks(const float* x, int steps, int channels) {
    const size_t all = static_cast<size_t>(channels) * channels, size = static_cast<size_t>(steps) * channels;
    const Floats filtered = noise(toom_cook_points_ * all), transformed = noise(fourier_points_ * all), direct = noise(all);
    const Floats bias = noise(channels), output = blank(size);
    menura_layer layers[9];
    int32_t ends[9];
    const int count = between(1, 9);
    for (int i = 0; i < count; ++i) {
      const int dilation = between(1, 5), kind = between(0, 2), taps = 2 * between(2, 5) + 1;
      layers[i] = {direct.get(), bias.get(), MENURA_DIRECT, channels, channels, 1, dilation, 1, 0};
      if (kind == 0) layers[i].weights = filtered.get(), layers[i].algorithm = MENURA_TOOM_COOK_6_3, layers[i].taps = 3;
      if (kind == 1) layers[i].weights = transformed.get(), layers[i].algorithm = MENURA_FOURIER_32, layers[i].taps = taps;
      const bool within = i > 0 && ends[i - 1] == MENURA_WITHIN_STEP;
      ends[i] = i == count - 1 ? MENURA_ENDS_BLOCK : between(within ? MENURA_ENDS_STEP : MENURA_WITHIN_STEP, MENURA_ENDS_BLOCK);
    }
    const menura_stage stage{layers, ends, count};
    // As many chunks as threads, also where there is no pool.
    const menura_call call{x, output.get(), nullptr, steps, steps, 0.1f, 0.3f, MENURA_STORE, between(1, 4), 0};
    if (menura_run_blocks(MENURA_AVX2, &stage, &call) != MENURA_OK) fail("the blocks refused their arguments");
    check(output.get(), size);
  }

  void upsample(const float* x, int steps, int in, int out) {
    const int rate = between(1, 12), taps = rate + between(0, 12), padding = between(0, rate);
    const Floats weights = noise(static_cast<size_t>(taps) * in * out), bias = noise(out);
    const int made = steps * rate;
    const Floats output = blank(static_cast<size_t>(made) * out);
    const menura_layer layer{weights.get(), bias.get(), MENURA_DIRECT, in, out, taps, 1, rate, padding};
    run(menura_upsample, layer, {x, output.get(), nullptr, steps, made, 0.1f, 1.0f, MENURA_STORE, 1, 0},
        static_cast<size_t>(made) * out);
    const int source_taps = between(1, 2 * rate + 1);
    const Floats source = noise(made), source_weights = noise(static_cast<size_t>(source_taps) * out);
    const Floats stage = noise(static_cast<size_t>(steps) * out);
    const menura_layer adding{source_weights.get(), bias.get(), MENURA_DIRECT, 1, out, source_taps, 1, rate, padding};
    run(menura_add_source, adding, {source.get(), stage.get(), nullptr, made, steps, 1.0f, 1.0f, MENURA_STORE, 1, 0},
        static_cast<size_t>(steps) * out);
  }

  void last(const float* x, int steps, int in) {
    const int taps = 2 * between(0, 5) + 1;
    const Floats weights = noise(static_cast<size_t>(taps) * in), bias = noise(1), output = blank(steps);
    const menura_layer layer{weights.get(), bias.get(), MENURA_DIRECT, in, 1, taps, 1, 1, 0};
    run(menura_last, layer, {x, output.get(), nullptr, steps, steps, 0.01f, 1.0f, MENURA_STORE, 1, 0}, steps);
  }

  void front(const float* x, int steps, int in, int out) {
    for (const int taps : {2, 3}) {
      const int made = steps < taps ? 0 : (steps - taps) / 2 + 1;
      const Floats weights = noise(static_cast<size_t>(7) * in * out), bias = noise(out);
      const Floats output = blank(static_cast<size_t>(made) * out);
      const menura_layer layer{weights.get(), bias.get(), MENURA_DIRECT, in, out, taps, 1, 2, 0};
      run(menura_halve, layer, {x, output.get(), nullptr, steps, made, 1.0f, 1.0f, MENURA_STORE, 1, 0},
          static_cast<size_t>(made) * out);
    }
    const int taps = between(1, 11), rate = between(1, 6), samples = between(0, 60);
    const int made = samples < taps ? 0 : (samples - taps) / rate + 1;
    const Floats input = noise(samples), weights = noise(static_cast<size_t>(taps) * out), bias = noise(out);
    const Floats output = blank(static_cast<size_t>(made) * out);
    const menura_layer layer{weights.get(), bias.get(), MENURA_DIRECT, 1, out, taps, 1, rate, 0};
    run(menura_first, layer, {input.get(), output.get(), nullptr, samples, made, 1.0f, 1.0f, MENURA_STORE, 1, 0},
        static_cast<size_t>(made) * out);
  }

  void image(int in, int out) {
    const int images = between(1, 2), height = between(1, 9), width = between(1, 9), half = between(0, 1);
    const size_t places = static_cast<size_t>(images) * height * width, count = places * out;
    Floats weights = noise(static_cast<size_t>(9) * in * out);
    if (half != 0) weights = halves(static_cast<size_t>(9) * in * out);
    const Floats x = noise(places * in), scale = noise(out), bias = noise(out), residual = noise(count), output = blank(count);
    const menura_image_layer layer{weights.get(), scale.get(), bias.get(), in, out, half};
    const menura_image_call call{x.get(), output.get(), residual.get(), images, height, width, 1};
    if (menura_convolve_image(MENURA_AVX2, &layer, &call) != MENURA_OK) fail("the image kernel refused its arguments");
    check(output.get(), count);
  }

  void recurrent(int hidden) {
    const int sequences = between(1, 2), steps = between(1, 6), directions = between(1, 2);
    const size_t count = static_cast<size_t>(sequences) * steps * directions * hidden;
    const Floats weights = noise(static_cast<size_t>(3) * directions * hidden * hidden), bias = noise(3 * directions * hidden);
    const Floats x = noise(3 * count), output = blank(count);
    const menura_recurrent_layer layer{weights.get(), bias.get(), hidden, directions};
    const menura_recurrent_call call{x.get(), output.get(), sequences, steps, 1};
    if (menura_run_recurrent(MENURA_AVX2, &layer, &call) != MENURA_OK) fail("the recurrent kernel refused its arguments");
    check(output.get(), count);
  }

  Floats halves(size_t count) {
    Floats made = blank((count + 1) / 2);
    auto* values = reinterpret_cast<unsigned short*>(made.get());
    for (size_t i = 0; i < count; ++i) values[i] = static_cast<unsigned short>(between(0x2000, 0x3000));
    return made;
  }

  static void check(const float* output, size_t count) {
    for (size_t i = 0; i < count; ++i)
      if (!std::isfinite(output[i])) fail("an output is no number");  // valgrind tells if it was never written
  }

  void attend(int steps) {
    const int heads = between(1, 3), head_channels = channels(), window = between(0, 9), all = heads * head_channels;
    const int near = (2 * window + MENURA_CHANNEL_MULTIPLE) / MENURA_CHANNEL_MULTIPLE * MENURA_CHANNEL_MULTIPLE;
    const size_t size = static_cast<size_t>(steps) * all, packed = static_cast<size_t>(near) * head_channels;
    const Floats x = noise(3 * size), near_keys = noise(packed), near_values = noise(packed), output = blank(size);
    const Floats workspace = blank(2 * static_cast<size_t>(all) * (steps + 64));
    const menura_attention call{x.get(),          x.get() + all,   x.get() + 2 * all, output.get(),
                                near_keys.get(),  near_values.get(), workspace.get(), steps,
                                3 * all,          all,             window + between(0, 80), heads,
                                head_channels,    window,          0.3f,            1};
    if (menura_attend(MENURA_AVX2, &call) != MENURA_OK) fail("attention refused its arguments");
    check(output.get(), size);
  }

  void gate(int steps, int in) {
    const Floats halves = noise(2 * static_cast<size_t>(steps) * in), output = blank(static_cast<size_t>(steps) * in);
    const menura_gating call{halves.get(), output.get(), steps, in, 1};
    if (menura_gate(MENURA_AVX2, &call) != MENURA_OK) fail("the gate refused its arguments");
    check(output.get(), static_cast<size_t>(steps) * in);
  }

  [[noreturn]] static void fail(const char* what) {
    std::fprintf(stderr, "%s\n", what);
    std::exit(3);
  }

  std::mt19937 random_;
  int toom_cook_points_, fourier_points_;
};

}  // namespace

int main(int count, char** arguments) {
  if (count != 5) return 2;
  Driver driver(std::atoi(arguments[1]), std::atoi(arguments[3]), std::atoi(arguments[4]));
  const int rounds = std::atoi(arguments[2]);
  if (rounds == 0) driver.overrun();
  for (int i = 0; i < rounds; ++i) driver.round();
  std::printf("fine %d\n", rounds);
}
