// One instruction set's kernels. Each path is path.cpp compiled for it; nothing else in the library may be.
#pragma once
#include "menura_kernels.h"

namespace menura {

struct Path {
  int32_t panel_channels;
  int32_t (*convolve)(const menura_layer&, const menura_call&);
  int32_t (*upsample)(const menura_layer&, const menura_call&);
  int32_t (*add_source)(const menura_layer&, const menura_call&);
  int32_t (*last)(const menura_layer&, const menura_call&);
  int32_t (*first)(const menura_layer&, const menura_call&);
  int32_t (*halve)(const menura_layer&, const menura_call&);
  int32_t (*convolve_image)(const menura_image_layer&, const menura_image_call&);
  int32_t (*convolve_plane)(const menura_plane_layer&, const menura_plane_call&);
  int32_t (*widen)(const menura_widening_layer&, const menura_call&);
  int32_t (*run_recurrent)(const menura_recurrent_layer&, const menura_recurrent_call&);
  int32_t (*attend)(const menura_attention&);
  int32_t (*gate)(const menura_gating&);
  int32_t (*product)(const menura_layer&, const menura_call&);
  int32_t (*run_blocks)(const menura_stage&, const menura_call&);
};

#if defined(__aarch64__)
namespace neon {
extern const Path kPath;
}
#else
namespace avx2 {
extern const Path kPath;
}
namespace avx512 {
extern const Path kPath;
}
#endif

}  // namespace menura
