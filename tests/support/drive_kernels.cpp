// Calls every kernel on random small shapes and compares with plain loops in double precision. Needs neither Python nor
// torch, so it runs under valgrind, which tells of foreign memory and of outputs made of what was never written, and in an
// emulator of another processor.
//
// usage: drive_kernels PATH SEED ROUNDS, with a number of enum menura_path, and on standard input the weights' transforms
// (G) of kernels/packing.py, each as its numbers of rows and columns and its rows: F(6,3), F(4,5), Fourier of 32 and of 64
// (16 taps), halving. With "overrun" for ROUNDS it reads a step too many, which valgrind has to tell; with "denormals" it asks that
// they are zeros within a kernel alone, which valgrind can't do.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "menura_kernels.h"

namespace {

constexpr double kTolerance = 2e-5;  // of a layer's largest output: LAYER_TOLERANCE of support/kernels.py

struct Free {
  void operator()(float* memory) const { std::free(memory); }
};
using Floats = std::unique_ptr<float[], Free>;
using Doubles = std::vector<double>;

// Exactly as many floats, without content: one more is somebody else's.
Floats blank(size_t count) {
  void* memory = nullptr;
  if (posix_memalign(&memory, 64, count * sizeof(float)) != 0) std::abort();
  return Floats(static_cast<float*>(memory));
}

[[noreturn]] void fail(const char* what, const char* kernel) {
  std::fprintf(stderr, "%s: %s\n", kernel, what);
  std::exit(3);
}

Doubles doubles(const float* values, size_t count) { return Doubles(values, values + count); }
double leaky_relu(double x, double slope) { return std::max(x, slope * x); }
double logistic(double x) { return 1 / (1 + std::exp(-x)); }
double gelu(double x) { return 0.5 * x * (1 + std::erf(x * std::sqrt(0.5))); }

double from_half(unsigned short half) {  // normal numbers
  const double size = std::ldexp(1024 + (half & 1023), ((half >> 10) & 31) - 25);
  return half & 0x8000 ? -size : size;
}

struct Matrix {
  int rows = 0, columns = 0;
  Doubles values;

  double at(int row, int column) const { return values[static_cast<size_t>(row) * columns + column]; }
  static Matrix identity(int size) {
    Matrix made{size, size, Doubles(static_cast<size_t>(size) * size)};
    for (int i = 0; i < size; ++i) made.values[static_cast<size_t>(i) * size + i] = 1;
    return made;
  }
  static Matrix from_input() {
    Matrix made;
    if (std::scanf("%d %d", &made.rows, &made.columns) != 2) fail("no matrix", "standard input");
    made.values.resize(static_cast<size_t>(made.rows) * made.columns);
    for (double& value : made.values)
      if (std::scanf("%lf", &value) != 1) fail("half a matrix", "standard input");
    return made;
  }
};

// Matrices [in][out], one for every point, in panels of so many columns; what is left in narrower ones.
template <class F>
Floats packed(int points, int in, int out, int wide, int narrow, const F& value) {
  Floats made = blank(static_cast<size_t>(points) * in * out);
  float* next = made.get();
  for (int point = 0; point < points; ++point)
    for (int first = 0, width; first < out; first += width) {
      width = out - first >= wide ? wide : narrow;
      for (int i = 0; i < in; ++i)
        for (int j = 0; j < width; ++j) *next++ = static_cast<float>(value(point, i, first + j));
    }
  return made;
}

// A layer with its weights as they were: [out][in][taps].
struct Layer {
  Floats plain, bias, weights;
  menura_layer arguments;

  double weight(int out, int in, int tap) const {
    return plain[(static_cast<size_t>(out) * arguments.channels_in + in) * arguments.taps + tap];
  }
  void take(Floats packed) {
    weights = std::move(packed);
    arguments.weights = weights.get();
  }
};

// The layer's sums for what `input(step, tap, channel)` gives.
template <class F>
Doubles sums_of(const Layer& layer, int steps, const F& input) {
  const menura_layer& a = layer.arguments;
  const int terms = a.channels_in * a.taps;
  Doubles made, given(terms);
  for (int step = 0; step < steps; ++step) {
    for (int n = 0; n < terms; ++n) given[n] = input(step, n % a.taps, n / a.taps);
    for (int o = 0; o < a.channels_out; ++o) {
      const float* weights = layer.plain.get() + static_cast<size_t>(o) * terms;
      double sum = layer.bias[o];
      for (int n = 0; n < terms; ++n) sum += weights[n] * given[n];
      made.push_back(sum);
    }
  }
  return made;
}

// A "same" convolution after a leaky ReLU.
Doubles convolved(const Layer& layer, const Doubles& x, int steps, double slope) {
  const menura_layer& a = layer.arguments;
  return sums_of(layer, steps, [&](int step, int tap, int channel) {
    const int row = step + (tap - a.taps / 2) * a.dilation;
    return row < 0 || row >= steps ? 0 : leaky_relu(x[static_cast<size_t>(row) * a.channels_in + channel], slope);
  });
}

class Driver {
 public:
  Driver(int path, unsigned seed) : path_(path), panel_(menura_panel_channels(path)), random_(seed) {
    if (panel_ < 0) fail("not on this processor", "the path");
    for (Matrix* matrix : {&toom_cook_6_3_, &toom_cook_4_5_, &fourier_32_, &fourier_64_, &halving_}) *matrix = Matrix::from_input();
  }

  void round() {
    const int in = channels(), out = channels(), steps = between(0, between(0, 7) == 0 ? 400 : 70);
    const Floats x = noise(static_cast<size_t>(steps) * in);
    for (const int algorithm :
         {MENURA_TOOM_COOK_6_3, MENURA_TOOM_COOK_4_5, MENURA_FOURIER_32, MENURA_FOURIER_64, MENURA_DIRECT})
      convolve(algorithm, x.get(), steps, in, out);
    blocks(x.get(), steps, in);
    upsample(x.get(), std::min(steps, 40), in, out);  // up to twelve times as many outputs
    add_source(steps, out);
    last(x.get(), steps, in);
    first(out);
    for (const int taps : {2, 3}) halve(taps, x.get(), steps, in, out);
    image(in, out);
    plane();
    widen(x.get(), steps, in, out);
    product(steps, in * between(1, 5), out * between(1, 3));
    recurrent(in);
    attend(between(0, 120));
    gate(steps, in);
  }

  void overrun() {
    const Floats x = noise(40 * 16), output = blank(41 * 16);
    const Layer layer = made_layer(MENURA_DIRECT, 16, 16, 3, 1);
    run(menura_convolve, "overrun", layer.arguments, {x.get(), output.get(), nullptr, 41, 41, 1, 1, MENURA_STORE, 1, 0});
  }

  void denormals() {
    Layer layer = one_channel(1, 16, 1, 1, 0);
    const Floats source = blank(1), output = blank(16);
    source[0] = 1e-20f;
    for (int c = 0; c < 16; ++c) layer.weights[c] = 1e-20f, layer.bias[c] = output[c] = 0.0f;
    run(menura_add_source, "denormals", layer.arguments,
        {source.get(), output.get(), nullptr, 1, 1, 1.0f, 1.0f, MENURA_STORE, 1, 0});
    for (int c = 0; c < 16; ++c)
      if (output[c] != 0.0f) fail("not zero", "denormals");
    volatile float tiny = 1e-20f;
    tiny = tiny * tiny;
    if (tiny == 0.0f) fail("zero after the kernel too", "denormals");
  }

  double largest_error() const { return largest_error_; }

 private:
  int between(int low, int high) { return std::uniform_int_distribution<int>(low, high)(random_); }
  // Now and then more than the kernels take at once.
  int channels() { return MENURA_CHANNEL_MULTIPLE * (between(0, 9) == 0 ? 9 : between(1, 5)); }
  // As many blocks as threads, also where there is no pool.
  int threads() { return between(1, 3); }

  Floats noise(size_t count, float size = 0.1f) {
    Floats made = blank(count);
    std::normal_distribution<float> normal(0.0f, size);
    for (size_t i = 0; i < count; ++i) made[i] = normal(random_);
    return made;
  }

  // Without packed weights.
  Layer plain_layer(int in, int out, int taps, int rate = 1, int padding = 0) {
    Layer made{noise(static_cast<size_t>(in) * out * taps), noise(out), nullptr, {}};
    made.arguments = {nullptr, made.bias.get(), MENURA_DIRECT, in, out, taps, 1, rate, padding};
    return made;
  }

  // Matrices [in][out] in this path's panels.
  template <class F>
  Floats in_panels(int points, int in, int out, const F& value) const {
    return packed(points, in, out, panel_, MENURA_CHANNEL_MULTIPLE, value);
  }

  Layer made_layer(int algorithm, int in, int out, int taps, int dilation) {
    Layer made = plain_layer(in, out, taps);
    made.arguments.algorithm = algorithm, made.arguments.dilation = dilation;
    const Matrix direct = Matrix::identity(taps);
    const Matrix& transform = algorithm == MENURA_TOOM_COOK_6_3   ? toom_cook_6_3_
                              : algorithm == MENURA_TOOM_COOK_4_5 ? toom_cook_4_5_
                              : algorithm == MENURA_FOURIER_32    ? fourier_32_
                              : algorithm == MENURA_FOURIER_64    ? fourier_64_
                                                                  : direct;
    made.take(in_panels(transform.rows, in, out, [&](int point, int i, int o) {
      double sum = 0;
      for (int tap = 0; tap < taps; ++tap) sum += transform.at(point, tap) * made.weight(o, i, tap);
      return sum;
    }));
    return made;
  }

  // One channel on the other side: weights [taps][channels], as they are.
  Layer one_channel(int in, int out, int taps, int rate, int padding) {
    Layer made = plain_layer(in, out, taps, rate, padding);
    const auto transposed = [&](int, int tap, int c) { return made.plain[static_cast<size_t>(c) * taps + tap]; };
    made.take(packed(1, taps, in * out, in * out, 1, transposed));
    return made;
  }

  template <class Kernel, class... Arguments>
  void run(Kernel* kernel, const char* name, const Arguments&... arguments) {
    if (kernel(path_, &arguments...) != MENURA_OK) fail("refused its arguments", name);
  }
  template <class Kernel>
  void run(Kernel* kernel, const char* name, const menura_layer& layer, const menura_call& call) {
    run<Kernel, menura_layer, menura_call>(kernel, name, layer, call);
  }

  // Within the tolerance of the largest output, or of the largest term, should they cancel.
  void compare(const char* name, const Floats& made, const Doubles& wanted, double largest_term) {
    double scale = std::max(largest_term, 1e-3);
    for (const double value : wanted) scale = std::max(scale, std::abs(value));
    for (size_t i = 0; i < wanted.size(); ++i) {
      const double error = std::abs(made[i] - wanted[i]) / scale;
      if (!(error <= kTolerance)) fail("wrong", name);  // valgrind tells if it was never written
      largest_error_ = std::max(largest_error_, error);
    }
  }

  void convolve(int algorithm, const float* x, int steps, int in, int out) {
    const int taps = algorithm == MENURA_TOOM_COOK_6_3   ? 3
                     : algorithm == MENURA_TOOM_COOK_4_5 ? 5
                                                         : 2 * between(algorithm == MENURA_DIRECT ? 0 : 2, 7) + 1;
    const Layer layer = made_layer(algorithm, in, out, taps, between(1, 7));
    const size_t size = static_cast<size_t>(steps) * out;
    const Floats residual = noise(size), output = blank(size);
    const Doubles sums = convolved(layer, doubles(x, static_cast<size_t>(steps) * in), steps, 0.1f);
    Doubles wanted(size);
    for (const int mode : {MENURA_STORE, MENURA_ADD_RESIDUAL, MENURA_START_MEAN, MENURA_ADD_TO_MEAN}) {
      run(menura_convolve, "convolve", layer.arguments,
          {x, output.get(), residual.get(), steps, steps, 0.1f, 0.5f, mode, threads(), 0});
      for (size_t i = 0; i < size; ++i) {
        double value = sums[i] + (mode == MENURA_STORE ? 0 : residual[i]);
        if (mode == MENURA_START_MEAN || mode == MENURA_ADD_TO_MEAN) value *= 0.5;
        wanted[i] = value + (mode == MENURA_ADD_TO_MEAN ? wanted[i] : 0);
      }
      compare("convolve", output, wanted, 0.1);
    }
  }

  void blocks(const float* x, int steps, int channels) {
    const size_t size = static_cast<size_t>(steps) * channels;
    const Floats output = blank(size);
    const int count = between(1, 9);
    std::vector<Layer> layers;
    std::vector<menura_layer> arguments;
    std::vector<int32_t> ends;
    for (int i = 0; i < count; ++i) {
      const int algorithm = std::vector<int>{MENURA_TOOM_COOK_6_3, MENURA_FOURIER_32, MENURA_FOURIER_64, MENURA_DIRECT}[between(0, 3)];
      const int taps = algorithm == MENURA_TOOM_COOK_6_3 ? 3 : algorithm == MENURA_DIRECT ? 1 : 2 * between(2, 5) + 1;
      layers.push_back(made_layer(algorithm, channels, channels, taps, between(1, 5)));
      arguments.push_back(layers.back().arguments);
      const bool within = i > 0 && ends[i - 1] == MENURA_WITHIN_STEP;
      ends.push_back(i == count - 1 ? MENURA_ENDS_BLOCK
                                    : between(within ? MENURA_ENDS_STEP : MENURA_WITHIN_STEP, MENURA_ENDS_BLOCK));
    }
    const menura_stage stage{arguments.data(), ends.data(), count};
    const menura_call call{x, output.get(), nullptr, steps, steps, 0.1f, 0.3f, MENURA_STORE, threads(), 0};
    run(menura_run_blocks, "blocks", stage, call);
    const Doubles input = doubles(x, size);
    Doubles signal = input, carried = input, wanted(size);
    double largest = 0;
    for (int i = 0; i < count; ++i) {
      signal = convolved(layers[i], signal, steps, 0.1f);
      if (ends[i] == MENURA_WITHIN_STEP) continue;
      for (size_t n = 0; n < size; ++n) signal[n] += carried[n];
      carried = signal;
      if (ends[i] != MENURA_ENDS_BLOCK) continue;
      for (size_t n = 0; n < size; ++n) wanted[n] += signal[n] * 0.3f, largest = std::max(largest, std::abs(signal[n]));
      signal = carried = input;
    }
    compare("blocks", output, wanted, largest);
  }

  void upsample(const float* x, int steps, int in, int out) {
    const int rate = between(1, 12), taps = rate + between(0, 12), padding = between(0, rate), made = steps * rate;
    Layer layer = plain_layer(in, out, taps, rate, padding);
    std::vector<int> order;
    for (int remainder = 0; remainder < rate; ++remainder)
      for (int tap = remainder; tap < taps; tap += rate) order.push_back(tap);
    layer.take(in_panels(taps, in, out, [&](int point, int i, int o) { return layer.weight(o, i, order[point]); }));
    const Floats output = blank(static_cast<size_t>(made) * out);
    run(menura_upsample, "upsample", layer.arguments,
        {x, output.get(), nullptr, steps, made, 0.1f, 1.0f, MENURA_STORE, threads(), 0});
    const Doubles wanted = sums_of(layer, made, [&](int step, int tap, int channel) {
      const int place = step + padding - tap, row = place / rate;
      return place < 0 || place % rate != 0 || row >= steps ? 0 : leaky_relu(x[row * in + channel], 0.1f);
    });
    compare("upsample", output, wanted, 0.1);
  }

  void add_source(int steps, int out) {
    const int rate = between(1, 12), padding = between(0, rate), samples = steps * rate;
    const Layer layer = one_channel(1, out, between(1, 2 * rate + 1), rate, padding);
    const Floats source = noise(samples), stage = noise(static_cast<size_t>(steps) * out);
    Doubles wanted = sums_of(layer, steps, [&](int step, int tap, int) {
      const int place = step * rate + tap - padding;
      return place < 0 || place >= samples ? 0 : source[place];
    });
    for (size_t i = 0; i < wanted.size(); ++i) wanted[i] += stage[i];
    run(menura_add_source, "add source", layer.arguments,
        {source.get(), stage.get(), nullptr, samples, steps, 1.0f, 1.0f, MENURA_STORE, threads(), 0});
    compare("add source", stage, wanted, 0.1);
  }

  void last(const float* x, int steps, int in) {
    const Layer layer = one_channel(in, 1, 2 * between(0, 5) + 1, 1, 0);
    const Floats output = blank(steps);
    run(menura_last, "last", layer.arguments,
        {x, output.get(), nullptr, steps, steps, 0.01f, 1.0f, MENURA_STORE, threads(), 0});
    Doubles wanted = convolved(layer, doubles(x, static_cast<size_t>(steps) * in), steps, 0.01f);
    for (double& value : wanted) value = std::tanh(value);
    compare("last", output, wanted, 0.1);
  }

  void first(int out) {
    const int taps = between(1, 11), rate = between(1, 6), samples = between(0, 60);
    const int made = samples < taps ? 0 : (samples - taps) / rate + 1;
    const Layer layer = one_channel(1, out, taps, rate, 0);
    const Floats input = noise(samples), output = blank(static_cast<size_t>(made) * out);
    run(menura_first, "first", layer.arguments,
        {input.get(), output.get(), nullptr, samples, made, 1.0f, 1.0f, MENURA_STORE, threads(), 0});
    Doubles wanted = sums_of(layer, made, [&](int step, int tap, int) { return input[step * rate + tap]; });
    for (double& value : wanted) value = gelu(value);
    compare("first", output, wanted, 0.1);
  }

  void halve(int taps, const float* x, int steps, int in, int out) {
    const int made = steps < taps ? 0 : (steps - taps) / 2 + 1;
    Layer layer = plain_layer(in, out, taps, 2);
    const auto pair = [&](int, int i, int o) { return layer.weight(o, i % in, i / in); };
    const auto transformed = [&](int point, int i, int o) {
      if (point == halving_.rows) return layer.weight(o, i, 1);
      return halving_.at(point, 0) * layer.weight(o, i, 0) + halving_.at(point, 1) * layer.weight(o, i, 2);
    };
    layer.take(taps == 2 ? in_panels(1, 2 * in, out, pair) : in_panels(halving_.rows + 1, in, out, transformed));
    const Floats output = blank(static_cast<size_t>(made) * out);
    run(menura_halve, "halve", layer.arguments,
        {x, output.get(), nullptr, steps, made, 1.0f, 1.0f, MENURA_STORE, threads(), 0});
    Doubles wanted =
        sums_of(layer, made, [&](int step, int tap, int channel) { return x[(2 * step + tap) * in + channel]; });
    for (double& value : wanted) value = gelu(value);
    compare("halve", output, wanted, 0.1);
  }

  void image(int in, int out) {
    const int images = between(1, 2), height = between(1, 9), width = between(1, 9);
    const bool half = between(0, 1) != 0, residual = between(0, 3) != 0;
    const size_t places = static_cast<size_t>(images) * height * width, count = places * out;
    const size_t size = static_cast<size_t>(9) * in * out;
    // [3 x 3][in][out]
    std::vector<unsigned short> halves(size);
    for (unsigned short& value : halves) value = static_cast<unsigned short>(between(0x2000, 0x3000) | between(0, 1) << 15);
    const Floats singles = noise(size);
    const auto weight = [&](int tap, int i, int o) {
      const size_t at = (static_cast<size_t>(tap) * in + i) * out + o;
      return half ? from_half(halves[at]) : singles[at];
    };
    // A panel has all nine taps of its outputs.
    const auto row = [&](int, int i, int o) { return weight(i / in, i % in, o); };
    Floats weights = in_panels(1, 9 * in, out, row);
    if (half) weights = packed_halves(weights, size);
    const Floats x = noise(places * in), scale = noise(out, 1.0f), bias = noise(out), added = noise(count), output = blank(count);
    const menura_image_layer layer{weights.get(), scale.get(), bias.get(), in, out, half};
    const menura_image_call call{x.get(), output.get(), residual ? added.get() : nullptr, images, height, width, threads()};
    run(menura_convolve_image, "image", layer, call);
    Doubles wanted(count);
    double largest = 0.1;
    for (size_t place = 0; place < places; ++place)
      for (int o = 0; o < out; ++o) {
        const int left = static_cast<int>(place % width), top = static_cast<int>(place / width % height);
        double sum = 0;
        for (int tap = 0; tap < 9; ++tap) {
          const int down = tap / 3 - 1, right = tap % 3 - 1;
          if (top + down < 0 || top + down >= height || left + right < 0 || left + right >= width) continue;
          const float* pixel = x.get() + (static_cast<int64_t>(place) + down * width + right) * in;
          for (int i = 0; i < in; ++i) sum += pixel[i] * weight(tap, i, o);
        }
        largest = std::max(largest, std::abs(sum * scale[o]));
        wanted[place * out + o] = std::max(0.0, sum * scale[o] + bias[o]) + (residual ? added[place * out + o] : 0);
      }
    compare("image", output, wanted, largest);
  }

  void plane() {
    const int in = between(1, 13), out = between(1, 13), high = 2 * between(0, 3) + 1, wide = 2 * between(0, 1) + 1;
    const int height = between(0, 12), width = between(0, 70), dilation = between(1, 5), groups = (out - 1) / 12 + 1;
    const int pitch = (width / 32 + 1) * 32;
    const bool residual = between(0, 1) != 0;
    const float slope = between(0, 1) != 0 ? 0.0f : 1.0f;
    const Floats plain = noise(static_cast<size_t>(groups) * 12 * in * high * wide), bias = noise(groups * 12);
    const Floats memory = blank(static_cast<size_t>(height) * in * pitch + 2), output = blank(height * out * pitch);
    const Floats added = noise(height * out * pitch);
    for (int i = 0; i < height * in * pitch + 2; ++i) memory[i] = 0;
    const float* x = memory.get() + 1;
    for (int i = 0; i < height * in; ++i)
      for (const float value : {0.1f, -0.2f, 0.3f})
        for (int at = between(0, 3); at < width; at += 3) memory[1 + i * pitch + at] = value;
    const menura_plane_layer layer{plain.get(), bias.get(), in, out, high, wide, dilation, slope};
    run(menura_convolve_plane, "plane", layer,
        menura_plane_call{x, output.get(), residual ? added.get() : nullptr, height, width, pitch, threads()});
    Doubles wanted(static_cast<size_t>(height) * out * pitch);
    for (int row = 0; row < height; ++row)
      for (int o = 0; o < out; ++o)
        for (int at = 0; at < width; ++at) {
          double sum = bias[o];
          for (int i = 0; i < high; ++i)
            for (int c = 0; c < in; ++c)
              for (int j = 0; j < wide; ++j) {
                const int from = row + (i - high / 2) * dilation, place = at + j - wide / 2;
                if (from < 0 || from >= height || place < 0 || place >= width) continue;
                const size_t tap = ((static_cast<size_t>(o / 12) * high + i) * in + c) * wide + j;
                sum += plain[tap * 12 + o % 12] * x[(from * in + c) * pitch + place];
              }
          const int to = (row * out + o) * pitch + at;
          wanted[to] = leaky_relu(sum + (residual ? added[to] : 0), slope);
        }
    compare("plane", output, wanted, 0.1);
  }

  void product(int steps, int in, int out) {
    Layer layer = plain_layer(in, out, 1);
    layer.arguments.weights = layer.plain.get();
    const Floats x = noise(static_cast<size_t>(steps) * in), output = blank(static_cast<size_t>(steps) * out);
    run(menura_product, "product", layer.arguments,
        {x.get(), output.get(), nullptr, steps, steps, 1, 1, MENURA_STORE, threads(), 0});
    compare("product", output, sums_of(layer, steps, [&](int step, int, int channel) { return x[step * in + channel]; }), 0.1);
  }

  void widen(const float* x, int steps, int channels, int some) {
    const int wide = some * between(1, 7), taps = 2 * between(0, 4) + 1;
    const size_t size = static_cast<size_t>(channels) * wide, count = static_cast<size_t>(steps) * channels;
    const Floats filters = noise(taps * channels, 1.0f), filter_bias = noise(channels), first = noise(size), second = noise(size),
                 wide_bias = noise(wide), bias = noise(channels), output = blank(count);
    const Floats widening = in_panels(1, channels, wide, [&](int, int i, int o) { return first[i * wide + o]; });
    const Floats narrowing = in_panels(1, wide, channels, [&](int, int i, int o) { return second[i * channels + o]; });
    const menura_widening_layer layer{filters.get(), filter_bias.get(), widening.get(), wide_bias.get(), narrowing.get(),
                                      bias.get(),    channels,          wide,           taps,            1e-4f};
    run(menura_widen, "widen", layer,
        menura_call{x, output.get(), nullptr, steps, steps, 1, 1, MENURA_STORE, threads(), 0});
    Doubles wanted, made(channels);
    for (int step = 0; step < steps; ++step) {
      double mean = 0, variance = 0;
      for (int c = 0; c < channels; ++c) {
        made[c] = filter_bias[c];
        for (int tap = 0; tap < taps; ++tap) {
          const int row = step + tap - taps / 2;
          if (row >= 0 && row < steps) made[c] += static_cast<double>(filters[tap * channels + c]) * x[row * channels + c];
        }
        mean += made[c] / channels;
      }
      for (int c = 0; c < channels; ++c) variance += (made[c] - mean) * (made[c] - mean) / channels;
      Doubles middle(wide);
      for (int o = 0; o < wide; ++o) {
        double sum = wide_bias[o];
        for (int c = 0; c < channels; ++c) sum += (made[c] - mean) / std::sqrt(variance + 1e-4) * first[c * wide + o];
        middle[o] = gelu(sum);
      }
      for (int c = 0; c < channels; ++c) {
        double sum = bias[c] + x[step * channels + c];
        for (int o = 0; o < wide; ++o) sum += middle[o] * second[o * channels + c];
        wanted.push_back(sum);
      }
    }
    compare("widen", output, wanted, 1.0);
  }

  // The same numbers, which are halves, in half the memory.
  static Floats packed_halves(const Floats& values, size_t count) {
    Floats made = blank((count + 1) / 2);
    auto* halves = reinterpret_cast<unsigned short*>(made.get());
    for (size_t i = 0; i < count; ++i) {
      int exponent;
      const double mantissa = std::frexp(std::abs(values[i]), &exponent);  // in [0.5, 1)
      const int bits = (exponent + 14) << 10 | (static_cast<int>(std::ldexp(mantissa, 11)) & 1023);
      halves[i] = static_cast<unsigned short>(bits | (values[i] < 0 ? 0x8000 : 0));
    }
    return made;
  }

  void recurrent(int hidden) {
    const int sequences = between(1, 2), steps = between(1, 6), directions = between(1, 2), gates = 3 * hidden;
    const size_t count = static_cast<size_t>(sequences) * steps * directions * hidden;
    const size_t matrix = static_cast<size_t>(hidden) * gates;
    const Floats plain = noise(directions * matrix), bias = noise(directions * gates), x = noise(3 * count, 1.0f);
    // Panels of cpp/recurrent.h; the directions' matrices [hidden][gates] stand one after the other.
    const Floats weights = packed(directions, hidden, gates, 6 * panel_, 3 * panel_ / 2, [&](int direction, int i, int o) {
      return plain[direction * matrix + static_cast<size_t>(i) * gates + o];
    });
    const Floats output = blank(count);
    const menura_recurrent_layer layer{weights.get(), bias.get(), hidden, directions};
    const menura_recurrent_call call{x.get(), output.get(), sequences, steps, threads()};
    run(menura_run_recurrent, "recurrent", layer, call);
    Doubles wanted(count);
    for (int sequence = 0; sequence < sequences; ++sequence)
      for (int direction = 0; direction < directions; ++direction) {
        Doubles state(hidden), sums(gates);
        for (int n = 0; n < steps; ++n) {
          const int step = sequence * steps + (direction ? steps - 1 - n : n);
          const float* input = x.get() + (static_cast<size_t>(step) * directions + direction) * gates;
          for (int o = 0; o < gates; ++o) {
            sums[o] = bias[direction * gates + o];
            for (int i = 0; i < hidden; ++i) sums[o] += state[i] * plain[direction * matrix + static_cast<size_t>(i) * gates + o];
          }
          for (int c = 0; c < hidden; ++c) {
            const double reset = logistic(input[c] + sums[c]), update = logistic(input[hidden + c] + sums[hidden + c]);
            const double fresh = std::tanh(input[2 * hidden + c] + reset * sums[2 * hidden + c]);
            state[c] = (1 - update) * fresh + update * state[c];
            wanted[(static_cast<size_t>(step) * directions + direction) * hidden + c] = state[c];
          }
        }
      }
    compare("recurrent", output, wanted, 1.0);
  }

  void attend(int steps) {
    const int heads = between(1, 3), width = channels(), window = between(0, 9), all = heads * width;
    const int reach = window + between(0, 80), near = 2 * window + 1;
    const int room = (near + MENURA_CHANNEL_MULTIPLE - 1) / MENURA_CHANNEL_MULTIPLE * MENURA_CHANNEL_MULTIPLE;
    const size_t size = static_cast<size_t>(steps) * all;
    const Floats x = noise(3 * size, 1.0f), near_keys = noise(static_cast<size_t>(near) * width, 1.0f),
                 near_values = noise(static_cast<size_t>(near) * width, 1.0f), output = blank(size);
    const Floats keys = in_panels(1, width, room, [&](int, int i, int o) {
      return o < near ? near_keys[static_cast<size_t>(o) * width + i] : 0;
    });
    const Floats values = in_panels(1, room, width, [&](int, int i, int o) {
      return i < near ? near_values[static_cast<size_t>(i) * width + o] : 0;
    });
    const Floats workspace = blank(2 * static_cast<size_t>(all) * (steps + 64));
    const menura_attention call{x.get(),      x.get() + all, x.get() + 2 * all, output.get(), keys.get(), values.get(),
                                workspace.get(), steps,      3 * all,           all,          reach,      heads,
                                width,        window,        0.3f,              threads()};
    run(menura_attend, "attend", call);
    Doubles wanted(size);
    for (int query = 0; query < steps; ++query)
      for (int head = 0; head < heads; ++head) attend_query(call, near_keys.get(), near_values.get(), query, head, wanted);
    compare("attend", output, wanted, 1.0);
  }

  static void attend_query(const menura_attention& call, const float* near_keys, const float* near_values, int query,
                           int head, Doubles& wanted) {
    const int width = call.head_channels, window = call.window, reach = static_cast<int>(call.reach);
    const int from = std::max(0, query - reach), to = std::min(static_cast<int>(call.steps) - 1, query + reach);
    const auto place = [&](const float* signal, int step) { return signal + step * call.pitch + head * width; };
    const auto near = [&](const float* vectors, int key) -> const float* {
      return std::abs(key - query) <= window ? vectors + static_cast<size_t>(key - query + window) * width : nullptr;
    };
    Doubles shares;
    double total = 0;
    for (int key = from; key <= to; ++key) {
      const float *asked = place(call.query, query), *k = place(call.key, key), *vector = near(near_keys, key);
      double score = 0;
      for (int c = 0; c < width; ++c) score += asked[c] * static_cast<double>(call.scale) * (k[c] + (vector ? vector[c] : 0.0));
      total += shares.emplace_back(std::exp(score));
    }
    for (int key = from; key <= to; ++key) {
      const float *v = place(call.value, key), *vector = near(near_values, key);
      for (int c = 0; c < width; ++c)
        wanted[query * call.output_pitch + head * width + c] += shares[key - from] / total * (v[c] + (vector ? vector[c] : 0.0));
    }
  }

  void gate(int steps, int channels) {
    const Floats halves = noise(2 * static_cast<size_t>(steps) * channels, 2.0f);
    const Floats output = blank(static_cast<size_t>(steps) * channels);
    const menura_gating call{halves.get(), output.get(), steps, channels, threads()};
    run(menura_gate, "gate", call);
    Doubles wanted;
    for (int step = 0; step < steps; ++step)
      for (int c = 0; c < channels; ++c) {
        const float* row = halves.get() + static_cast<size_t>(step) * 2 * channels;
        wanted.push_back(std::tanh(static_cast<double>(row[c])) * logistic(row[channels + c]));
      }
    compare("gate", output, wanted, 1.0);
  }

  int path_, panel_;
  std::mt19937 random_;
  Matrix toom_cook_6_3_, toom_cook_4_5_, fourier_32_, fourier_64_, halving_;
  double largest_error_ = 0;
};

}  // namespace

int main(int count, char** arguments) {
  if (count != 4) return 2;
  Driver driver(std::atoi(arguments[1]), std::atoi(arguments[2]));
  const std::string what = arguments[3];
  if (what == "overrun") driver.overrun();
  if (what == "denormals") driver.denormals();
  for (int i = std::atoi(arguments[3]); i > 0; --i) driver.round();
  std::printf("fine, largest error %.1e\n", driver.largest_error());
}
