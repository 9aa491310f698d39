// Compiled once for each instruction set, with MENURA_PATH as its namespace.
#include "path.h"

#include "attention.h"
#include "convolution.h"
#include "ends.h"
#include "front.h"
#include "image.h"
#include "plane.h"
#include "product.h"
#include "recurrent.h"
#include "stage.h"
#include "widening.h"

namespace menura {
namespace MENURA_PATH {
extern const Path kPath{kPanelChannels, convolve,       upsample,       add_source, last,          first,
                        halve,          convolve_image, convolve_plane, widen,      run_recurrent, attend,
                        gate,           product,        run_blocks};

}  // namespace MENURA_PATH
}  // namespace menura
