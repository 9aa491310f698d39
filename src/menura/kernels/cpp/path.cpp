// Compiled once for each instruction set, with MENURA_PATH as its namespace.
#include "path.h"

#include "attention.h"
#include "convolution.h"
#include "ends.h"
#include "front.h"
#include "image.h"
#include "recurrent.h"

namespace menura {
namespace MENURA_PATH {
namespace {

int32_t convolve(const menura_layer& layer, const menura_call& call) {
  return with_finish(call, [&](const auto& finish) -> int32_t {
    switch (layer.algorithm) {
      case MENURA_DIRECT: return convolve_direct(layer, call, finish);
      case MENURA_TOOM_COOK_6_3: return convolve_filtered<ToomCook<ToomCook_6_3>>(layer, call, finish);
      case MENURA_TOOM_COOK_4_5: return convolve_filtered<ToomCook<ToomCook_4_5>>(layer, call, finish);
      case MENURA_FOURIER_32: return convolve_filtered<Fourier<32>>(layer, call, finish);
      default: return MENURA_BAD_ARGUMENT;
    }
  });
}

}  // namespace

extern const Path kPath{kPanelChannels, convolve,       upsample,      add_source, last, first,
                        halve,          convolve_image, run_recurrent, attend,     gate};

}  // namespace MENURA_PATH
}  // namespace menura
