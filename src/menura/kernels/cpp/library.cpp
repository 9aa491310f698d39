// The C interface: checks arguments and chooses the path.
#if !defined(__aarch64__)
#include <cpuid.h>
#endif

#include <cstddef>

#include "menura_kernels.h"
#include "path.h"
#include "threads.h"

namespace menura {

std::atomic<GompParallel> gomp_parallel{nullptr};

namespace {

constexpr int32_t kVersion = 6;
constexpr int32_t kMostChannels = 1 << 14, kMostTaps = 1 << 12, kMostDilation = 1 << 12;
constexpr int64_t kMostSteps = int64_t{1} << 40, kMostWidth = 1 << 20,
                  kMostAttended = int64_t{1} << 28;

#if defined(__aarch64__)
// Every such processor has it.
const Path* path_of(int32_t path) { return path == MENURA_NEON ? &neon::kPath : nullptr; }
#else
// Numbers in half precision: every processor with AVX2 has it, if no virtual machine hides it.
bool converts_halves() {
  // Asked once: in a virtual machine the question takes microseconds.
  static const bool found = [] {
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
  }();
  return found;
}

// Null where this processor doesn't have it.
const Path* path_of(int32_t path) {
  if (!converts_halves()) return nullptr;
  if (path == MENURA_AVX2 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return &avx2::kPath;
  if (path == MENURA_AVX512 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl"))
    return &avx512::kPath;
  return nullptr;
}
#endif

bool whole_channels(int32_t channels) {
  return channels > 0 && channels <= kMostChannels && channels % MENURA_CHANNEL_MULTIPLE == 0;
}

bool valid(const menura_layer& layer, const menura_call& call) {
  return layer.weights && layer.bias && (call.input || call.steps_in == 0) &&
         (call.output || call.steps_out == 0) && layer.taps > 0 && layer.taps <= kMostTaps &&
         call.steps_in >= 0 && call.steps_in <= kMostSteps && call.steps_out >= 0 && call.steps_out <= kMostSteps &&
         call.threads > 0;
}

bool valid_convolution(const menura_layer& layer, const menura_call& call) {
  const bool fits = layer.algorithm == MENURA_DIRECT || (layer.algorithm == MENURA_TOOM_COOK_6_3 && layer.taps == 3) ||
                    (layer.algorithm == MENURA_TOOM_COOK_4_5 && layer.taps == 5) ||
                    ((layer.algorithm == MENURA_FOURIER_32 || layer.algorithm == MENURA_FOURIER_64) && layer.taps <= 16);
  return valid(layer, call) && fits && whole_channels(layer.channels_in) && whole_channels(layer.channels_out) &&
         layer.taps % 2 == 1 && layer.dilation > 0 && layer.dilation <= kMostDilation &&
         call.steps_in == call.steps_out && call.offset == 0 &&
         (call.mode == MENURA_STORE || call.residual || call.steps_out == 0);
}

bool valid_stage(const menura_stage& stage, const menura_call& call) {
  if (!stage.layers || !stage.ends || stage.count <= 0 || stage.count > kMostTaps ||
      stage.ends[stage.count - 1] != MENURA_ENDS_BLOCK || (call.input == call.output && call.steps_out > 0))
    return false;
  menura_call plain = call;
  plain.mode = MENURA_STORE;
  for (int32_t i = 0; i < stage.count; ++i) {
    const menura_layer& layer = stage.layers[i];
    // What is within a step has one place: a step is one or two layers.
    if (i > 0 && stage.ends[i] == MENURA_WITHIN_STEP && stage.ends[i - 1] == MENURA_WITHIN_STEP) return false;
    if (stage.ends[i] < MENURA_WITHIN_STEP || stage.ends[i] > MENURA_ENDS_BLOCK || !valid_convolution(layer, plain) ||
        layer.channels_in != layer.channels_out || layer.channels_in != stage.layers[0].channels_in)
      return false;
  }
  return true;
}

bool valid_image(const menura_image_layer& layer, const menura_image_call& call) {
  if (call.images < 0 || call.height < 0 || call.width < 0 || call.threads <= 0 || call.images > kMostSteps ||
      call.height > kMostSteps || call.width > kMostWidth)
    return false;
  const bool empty = call.images == 0 || call.height == 0 || call.width == 0;
  return layer.weights && layer.scale && layer.bias && (empty || (call.input && call.output)) &&
         whole_channels(layer.channels_in) && whole_channels(layer.channels_out);
}

bool valid_plane(const menura_plane_layer& layer, const menura_plane_call& call) {
  const bool taps = layer.high > 0 && layer.wide > 0 && layer.high <= kMostTaps && layer.wide <= kMostTaps &&
                    layer.high % 2 == 1 && layer.wide % 2 == 1 && layer.dilation > 0 && layer.dilation <= kMostDilation;
  return taps && layer.weights && layer.bias && layer.channels_in > 0 && layer.channels_in <= kMostChannels &&
         layer.channels_out > 0 && layer.channels_out <= kMostChannels &&
         (call.height == 0 || (call.input && call.output && call.input != call.output)) &&
         call.height >= 0 && call.height <= kMostSteps && call.width >= 0 && call.pitch <= kMostWidth && call.pitch % 32 == 0 && call.pitch >= call.width + layer.wide / 2 &&
         call.threads > 0;
}

bool valid_widening(const menura_widening_layer& layer, const menura_call& call) {
  return layer.filters && layer.filter_bias && layer.widening && layer.wide_bias && layer.narrowing && layer.bias &&
         whole_channels(layer.channels) && whole_channels(layer.wide) && layer.taps > 0 && layer.taps <= kMostTaps &&
         layer.taps % 2 == 1 && call.steps_in >= 0 && call.steps_in <= kMostSteps && call.steps_out == call.steps_in &&
         (call.steps_in == 0 || (call.input && call.output && call.input != call.output)) && call.threads > 0;
}

// Without padding: as many outputs as there are whole windows.
bool valid_unpadded(const menura_layer& layer, const menura_call& call, int32_t rate) {
  return valid(layer, call) && rate > 0 && rate <= kMostTaps && whole_channels(layer.channels_out) &&
         call.steps_out == (call.steps_in < layer.taps ? 0 : (call.steps_in - layer.taps) / rate + 1);
}

bool valid_recurrent(const menura_recurrent_layer& layer, const menura_recurrent_call& call) {
  if (call.sequences < 0 || call.steps < 0 || call.sequences > kMostSteps || call.steps > kMostSteps || call.threads <= 0)
    return false;
  const bool empty = call.sequences == 0 || call.steps == 0;
  return layer.weights && layer.bias && whole_channels(layer.hidden) && (layer.directions == 1 || layer.directions == 2) &&
         (empty || (call.input && call.output));
}

bool valid_strided(const menura_layer& layer, const menura_call& call) {
  return valid(layer, call) && layer.rate > 0 && layer.padding >= 0 && layer.padding <= kMostTaps;
}

bool valid_attention(const menura_attention& call) {
  const int64_t channels = static_cast<int64_t>(call.heads) * call.head_channels;
  const bool given = call.query && call.key && call.value && call.output && call.workspace;
  return (given || call.steps == 0) && call.near_keys && call.near_values && call.steps >= 0 &&
         call.steps <= kMostAttended && call.heads > 0 && call.heads <= kMostChannels &&
         whole_channels(call.head_channels) && call.pitch >= channels && call.output_pitch >= channels &&
         call.window >= 0 && call.window <= kMostTaps && call.reach >= call.window && call.reach <= kMostSteps &&
         call.threads > 0;
}

}  // namespace
}  // namespace menura

using menura::path_of;

extern "C" {

int32_t menura_version(void) { return menura::kVersion; }

int32_t menura_supported_paths(void) {
  int32_t bits = 0;
  for (int32_t path = 0; path < MENURA_PATHS; ++path) bits |= path_of(path) ? 1 << path : 0;
  return bits;
}

int32_t menura_panel_channels(int32_t path) {
  const auto* chosen = path_of(path);
  return chosen ? chosen->panel_channels : MENURA_BAD_ARGUMENT;
}

void menura_set_parallel(void* gomp_parallel) {
  menura::gomp_parallel = reinterpret_cast<menura::GompParallel>(gomp_parallel);
}

int32_t menura_convolve(int32_t path, const menura_layer* layer, const menura_call* call) {
  const auto* chosen = path_of(path);
  if (!chosen || !layer || !call || !menura::valid_convolution(*layer, *call)) return MENURA_BAD_ARGUMENT;
  return call->steps_out == 0 ? MENURA_OK : chosen->convolve(*layer, *call);
}

int32_t menura_run_blocks(int32_t path, const menura_stage* stage, const menura_call* call) {
  const auto* chosen = path_of(path);
  if (!chosen || !stage || !call || !menura::valid_stage(*stage, *call)) return MENURA_BAD_ARGUMENT;
  return call->steps_out == 0 ? MENURA_OK : chosen->run_blocks(*stage, *call);
}

int32_t menura_upsample(int32_t path, const menura_layer* layer, const menura_call* call) {
  const auto* chosen = path_of(path);
  if (!chosen || !layer || !call || !menura::valid_strided(*layer, *call) || !menura::whole_channels(layer->channels_in) ||
      !menura::whole_channels(layer->channels_out))
    return MENURA_BAD_ARGUMENT;
  return call->steps_out == 0 ? MENURA_OK : chosen->upsample(*layer, *call);
}

int32_t menura_add_source(int32_t path, const menura_layer* layer, const menura_call* call) {
  const auto* chosen = path_of(path);
  if (!chosen || !layer || !call || !menura::valid_strided(*layer, *call) || !menura::whole_channels(layer->channels_out))
    return MENURA_BAD_ARGUMENT;
  return chosen->add_source(*layer, *call);
}

int32_t menura_last(int32_t path, const menura_layer* layer, const menura_call* call) {
  const auto* chosen = path_of(path);
  if (!chosen || !layer || !call || !menura::valid(*layer, *call) || !menura::whole_channels(layer->channels_in) ||
      layer->taps % 2 == 0 || call->steps_in != call->steps_out)
    return MENURA_BAD_ARGUMENT;
  return chosen->last(*layer, *call);
}

int32_t menura_first(int32_t path, const menura_layer* layer, const menura_call* call) {
  const auto* chosen = path_of(path);
  if (!chosen || !layer || !call || !menura::valid_unpadded(*layer, *call, layer->rate)) return MENURA_BAD_ARGUMENT;
  return chosen->first(*layer, *call);
}

int32_t menura_halve(int32_t path, const menura_layer* layer, const menura_call* call) {
  const auto* chosen = path_of(path);
  if (!chosen || !layer || !call || !menura::valid_unpadded(*layer, *call, 2) ||
      !menura::whole_channels(layer->channels_in) || (layer->taps != 2 && layer->taps != 3))
    return MENURA_BAD_ARGUMENT;
  return call->steps_out == 0 ? MENURA_OK : chosen->halve(*layer, *call);
}

int32_t menura_convolve_image(int32_t path, const menura_image_layer* layer, const menura_image_call* call) {
  const auto* chosen = path_of(path);
  if (!chosen || !layer || !call || !menura::valid_image(*layer, *call)) return MENURA_BAD_ARGUMENT;
  if (call->images == 0 || call->height == 0 || call->width == 0) return MENURA_OK;
  return chosen->convolve_image(*layer, *call);
}

int32_t menura_convolve_plane(int32_t path, const menura_plane_layer* layer, const menura_plane_call* call) {
  const auto* chosen = path_of(path);
  if (!chosen || !layer || !call || !menura::valid_plane(*layer, *call)) return MENURA_BAD_ARGUMENT;
  return call->height == 0 ? MENURA_OK : chosen->convolve_plane(*layer, *call);
}

int32_t menura_widen(int32_t path, const menura_widening_layer* layer, const menura_call* call) {
  const auto* chosen = path_of(path);
  if (!chosen || !layer || !call || !menura::valid_widening(*layer, *call)) return MENURA_BAD_ARGUMENT;
  return call->steps_in == 0 ? MENURA_OK : chosen->widen(*layer, *call);
}

int32_t menura_product(int32_t path, const menura_layer* layer, const menura_call* call) {
  const auto* chosen = path_of(path);
  if (!chosen || !layer || !call || !menura::valid(*layer, *call) || !menura::whole_channels(layer->channels_in) ||
      !menura::whole_channels(layer->channels_out) || call->steps_in != call->steps_out)
    return MENURA_BAD_ARGUMENT;
  return call->steps_out == 0 ? MENURA_OK : chosen->product(*layer, *call);
}

int32_t menura_run_recurrent(int32_t path, const menura_recurrent_layer* layer, const menura_recurrent_call* call) {
  const auto* chosen = path_of(path);
  if (!chosen || !layer || !call || !menura::valid_recurrent(*layer, *call)) return MENURA_BAD_ARGUMENT;
  if (call->sequences == 0 || call->steps == 0) return MENURA_OK;
  return chosen->run_recurrent(*layer, *call);
}

int32_t menura_attend(int32_t path, const menura_attention* call) {
  const auto* chosen = path_of(path);
  if (!chosen || !call || !menura::valid_attention(*call)) return MENURA_BAD_ARGUMENT;
  return chosen->attend(*call);
}

int32_t menura_gate(int32_t path, const menura_gating* call) {
  const auto* chosen = path_of(path);
  if (!chosen || !call || call->steps < 0 || (call->steps > 0 && (!call->input || !call->output)) || call->threads <= 0 ||
      !menura::whole_channels(call->channels))
    return MENURA_BAD_ARGUMENT;
  return chosen->gate(*call);
}

}  // extern "C"
