// C interface of Menura's convolution kernels. Called through ctypes on the caller's memory; nothing is kept.
//
// Signals are time-major float32: [steps][channels], rows without gaps, channels a multiple of MENURA_CHANNEL_MULTIPLE
// (pad with zero weights and biases). Outside its steps a signal is zero, as in a "same" convolution.
#pragma once
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define MENURA_CHANNEL_MULTIPLE 16
#define MENURA_PLANE_GROUP 12
#define MENURA_EXPORT __attribute__((visibility("default")))

// Instruction sets. A path is used only where the processor has it.
enum menura_path { MENURA_AVX2 = 0, MENURA_AVX512 = 1, MENURA_NEON = 2, MENURA_PATHS = 3 };

// How a convolution is computed; its weights are packed accordingly (kernels/packing.py).
enum menura_algorithm {
  MENURA_DIRECT = 0,
  MENURA_TOOM_COOK_6_3 = 1,  // 3 taps
  MENURA_FOURIER_32 = 2,     // up to 16
  MENURA_TOOM_COOK_4_5 = 3,  // 5 taps
  MENURA_FOURIER_64 = 4,     // up to 16
};

// What becomes of a convolution's sums v (bias included).
enum menura_mode {
  MENURA_STORE = 0,         // output = v
  MENURA_ADD_RESIDUAL = 1,  // output = v + residual
  MENURA_START_MEAN = 2,    // output = (v + residual) * scale
  MENURA_ADD_TO_MEAN = 3,   // output += (v + residual) * scale
};

enum menura_error { MENURA_OK = 0, MENURA_BAD_ARGUMENT = -1, MENURA_OUT_OF_MEMORY = -2 };

// A convolution of stride 1, or (with rate > 1) a transposed one.
typedef struct {
  const float* weights;  // packed
  const float* bias;     // [channels_out]
  int32_t algorithm;
  int32_t channels_in, channels_out;
  int32_t taps, dilation;
  int32_t rate, padding;  // of a transposed convolution: stride, and samples cut off its start
} menura_layer;

typedef struct {
  const float* input;     // [steps_in][channels_in]
  float* output;          // [steps_out][channels_out]
  const float* residual;  // [steps_out][channels_out]; may be the output itself, but not the input's memory
  int64_t steps_in, steps_out;
  float slope;  // of the leaky ReLU before the convolution; 1 for none
  float scale;  // for the two "mean" modes
  int32_t mode;
  int32_t threads;
  int64_t offset;  // row of the input at the first output's place: 0, but within a stage's chunks
} menura_call;

// What follows a layer of a stage's residual blocks: the next one, an addition, or the addition to the mean.
enum menura_end { MENURA_WITHIN_STEP = 0, MENURA_ENDS_STEP = 1, MENURA_ENDS_BLOCK = 2 };

// Residual blocks that all begin with the same signal, and whose mean is wanted. All layers have as many channels; a
// step has one or two of them.
typedef struct {
  const menura_layer* layers;  // [count], block after block
  const int32_t* ends;         // [count] of menura_end
  int32_t count;
} menura_stage;

// A 3 x 3 convolution of stride 1 over two axes, then a scale for each channel.
typedef struct {
  const void* weights;  // [panels][9][channels_in][the panel's outputs]; not transformed
  const float* scale;   // [channels_out]
  const float* bias;    // [channels_out]
  int32_t channels_in, channels_out;
  int32_t half;  // weights are in half precision, not in single
} menura_image_layer;

// Images are [images][height][width][channels]; outside of each are zeros.
typedef struct {
  const float* input;
  float* output;          // not the input's memory
  const float* residual;  // like the output, and perhaps the output itself; null for none
  int64_t images, height, width;
  int32_t threads;
} menura_image_call;

// A convolution of few channels over two axes, of stride 1 and odd numbers of taps, then leaky ReLU.
typedef struct {
  const float* weights;  // [groups][high][channels_in][wide][MENURA_PLANE_GROUP outputs], the last group padded
  const float* bias;     // [groups][MENURA_PLANE_GROUP]
  int32_t channels_in, channels_out;
  int32_t high, wide;  // taps
  int32_t dilation;    // of the former
  float slope;         // of the leaky ReLU; 1 for none
} menura_plane_layer;

// Planes are [height][channels][pitch], `width` of the pitch being theirs and zeros behind; the wide / 2 floats before an
// input's first are zeros, and as many behind its last may be read.
typedef struct {
  const float* input;
  float* output;          // not the input's memory
  const float* residual;  // like the output, and added before the leaky ReLU; null for none
  int64_t height, width, pitch;  // the pitch is a multiple of 32, and at least wide / 2 more than the width
  int32_t threads;
} menura_plane_call;

// A filter of each channel over time, a layer norm without weights, a layer to `wide` channels, GELU, and one back.
typedef struct {
  const float* filters;      // [taps][channels], an odd number
  const float* filter_bias;  // [channels]
  const float* widening;     // packed as a convolution of one tap from channels to wide
  const float* wide_bias;    // [wide]
  const float* narrowing;    // packed as one from wide to channels
  const float* bias;         // [channels]
  int32_t channels, wide, taps;
  float epsilon;  // added to the variance
} menura_widening_layer;

// A gated recurrent unit in one or both directions.
typedef struct {
  const float* weights;  // [directions], each in panels (kernels/rmvpe.py): of the state before to the three gates
  const float* bias;     // [directions][3][hidden], of the same
  int32_t hidden;        // a multiple of MENURA_CHANNEL_MULTIPLE
  int32_t directions;    // 1, or 2: the second runs from the end
} menura_recurrent_layer;

typedef struct {
  const float* input;  // [sequences][steps][directions][3][hidden]: what the input adds to the gates, its bias included
  float* output;       // [sequences][steps][directions][hidden]
  int64_t sequences, steps;
  int32_t threads;
} menura_recurrent_call;

// Self-attention of some heads, with vectors for the distances from -window to window. A head's channels lie together.
typedef struct {
  const float *query, *key, *value;  // [steps][pitch], of which heads * head_channels are theirs
  float* output;                     // [steps][output_pitch]
  const float* near_keys;            // packed as a convolution of one tap: head_channels to 2 window + 1, padded
  const float* near_values;          // packed: 2 window + 1, padded, to head_channels
  float* workspace;                  // 2 * heads * head_channels * (steps + 64)
  int64_t steps, pitch, output_pitch;
  int64_t reach;  // steps on each side that a step sees, at least `window`
  int32_t heads, head_channels, window;
  float scale;  // of the queries
  int32_t threads;
} menura_attention;

typedef struct {
  const float* input;  // [steps][2 * channels]
  float* output;       // [steps][channels]
  int64_t steps;
  int32_t channels, threads;
} menura_gating;

// Changes with the functions, and with the layout of packed weights.
MENURA_EXPORT int32_t menura_version(void);

// Bit `path` is set where this processor can run it.
MENURA_EXPORT int32_t menura_supported_paths(void);

// Output channels that lie together in packed weights.
MENURA_EXPORT int32_t menura_panel_channels(int32_t path);

// Runs blocks on the caller's OpenMP pool: the address of GOMP_parallel in the runtime that torch uses. Null: one thread.
MENURA_EXPORT void menura_set_parallel(void* gomp_parallel);

// A convolution of stride 1: steps_out equals steps_in.
MENURA_EXPORT int32_t menura_convolve(int32_t path, const menura_layer* layer, const menura_call* call);

// The mean of a stage's blocks, every layer with the same leaky ReLU before it: scale is 1 by the number of blocks;
// residual and mode are ignored.
MENURA_EXPORT int32_t menura_run_blocks(int32_t path, const menura_stage* stage, const menura_call* call);

// A transposed convolution; mode is ignored (it stores).
MENURA_EXPORT int32_t menura_upsample(int32_t path, const menura_layer* layer, const menura_call* call);

// output += bias + convolution of one channel: input is [steps_in] samples; taps, rate (stride) and padding of the layer;
// weights are [taps][channels_out].
MENURA_EXPORT int32_t menura_add_source(int32_t path, const menura_layer* layer, const menura_call* call);

// tanh of a convolution down to one channel: weights are [taps][channels_in], bias [1], output [steps_out].
MENURA_EXPORT int32_t menura_last(int32_t path, const menura_layer* layer, const menura_call* call);

// GELU of a convolution of one channel, without padding: taps and rate (stride) of the layer; weights are
// [taps][channels_out], input is [steps_in] samples.
MENURA_EXPORT int32_t menura_first(int32_t path, const menura_layer* layer, const menura_call* call);

// GELU of a convolution of stride 2 and two or three taps, without padding: weights of three taps are packed as
// kernels/packing.py does for HALVING, of two as those of a convolution of one tap from twice the channels.
MENURA_EXPORT int32_t menura_halve(int32_t path, const menura_layer* layer, const menura_call* call);

// relu(convolution * scale + bias) + residual.
MENURA_EXPORT int32_t menura_convolve_image(int32_t path, const menura_image_layer* layer, const menura_image_call* call);

// leaky_relu(convolution + bias + residual)
MENURA_EXPORT int32_t menura_convolve_plane(int32_t path, const menura_plane_layer* layer, const menura_plane_call* call);

// What the layer makes of a signal, plus the signal; of the call, input and output (not the same memory), steps_in, which
// equals steps_out, and threads count.
MENURA_EXPORT int32_t menura_widen(int32_t path, const menura_widening_layer* layer, const menura_call* call);

// A linear layer, of weights [channels_out][channels_in] that aren't packed; of the call, input and output (not the same
// memory), steps_in, which equals steps_out, and threads count.
MENURA_EXPORT int32_t menura_product(int32_t path, const menura_layer* layer, const menura_call* call);

// States of sequences that begin at zero.
MENURA_EXPORT int32_t menura_run_recurrent(int32_t path, const menura_recurrent_layer* layer,
                                           const menura_recurrent_call* call);

// Scores, their softmax and its means of the values; scores of near distances are those with key + near key, and their
// shares are of value + near value.
MENURA_EXPORT int32_t menura_attend(int32_t path, const menura_attention* call);

// output = tanh(first half of the channels) * sigmoid(second half)
MENURA_EXPORT int32_t menura_gate(int32_t path, const menura_gating* call);

#ifdef __cplusplus
}
#endif
