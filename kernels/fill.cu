// Smooth fill of unusable pixels.
// Reference: astrid_gpu/ops/fill.py.  CPU twin: fill_numba.py.  Launch: astrid_gpu/backends/cuda/fill.py.
// real is float, or double with -DASTRID_DOUBLE.
#include "common.cuh"

extern "C" {

// v(p) = sum_q G(q - p) I(q) g(q) / W,  s(p) = sqrt(sum_q G^2 g) / W,  W = sum_q G(q - p) g(q) + fade    at bad pixels,
// filled with sign(v) max(|v| - shrink s, 0); good ones are copied.
//
// images, filled: (n, py, px), periodic.  bad: (n, py, px) or (1, py, px) with bad_stride 0; nonzero = replace.
// profiles: (n, radius + 1), or (1, radius + 1) with profile_stride 0: the Gaussian along one axis,
// G(dy, dx) = w[|dy|] w[|dx|].  fades: (n) or (1) likewise with fade_stride.  2 radius + 1 <= min(py, px).
// Launch: grid (ceil(px / 32), ceil(py / 8), images), block (32, 8): a pixel a thread. Few pixels are bad, and those of
// the padding lie together, so warps seldom mix; their windows come from cache.
__global__ void __launch_bounds__(256) fill_masked(
    const real* __restrict__ images, const unsigned char* __restrict__ bad, const real* __restrict__ profiles,
    const real* __restrict__ fades, real* __restrict__ filled, int n, int py, int px, int radius, real shrink,
    long long bad_stride, int profile_stride, int fade_stride) {
  const int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
  if (x >= px || y >= py) return;  // no barrier below
  for (int image = blockIdx.z; image < n; image += gridDim.z) {
    const real* in = images + image * static_cast<long long>(py) * px;
    const unsigned char* mask = bad + image * bad_stride;
    const real* weights = profiles + static_cast<long long>(image) * profile_stride;
    const long long here = static_cast<long long>(y) * px + x;
    real value = in[here];
    if (mask[here] != 0) {
      real total = 0, weight = 0, square = 0;
      for (int dy = -radius; dy <= radius; ++dy) {
        int yy = y + dy;
        yy += yy < 0 ? py : (yy >= py ? -py : 0);
        const long long row = static_cast<long long>(yy) * px;
        real row_total = 0, row_weight = 0, row_square = 0;
        for (int dx = -radius; dx <= radius; ++dx) {
          int xx = x + dx;
          xx += xx < 0 ? px : (xx >= px ? -px : 0);
          if (mask[row + xx] != 0) continue;  // a bad pixel may hold NaN: it is never multiplied
          const real w = weights[abs(dx)];
          row_total += w * in[row + xx];
          row_weight += w;
          row_square += w * w;
        }
        total += weights[abs(dy)] * row_total;
        weight += weights[abs(dy)] * row_weight;
        square += weights[abs(dy)] * weights[abs(dy)] * row_square;
      }
      const real norm = weight + fades[static_cast<long long>(image) * fade_stride];
      value = total / norm;
      const real size = max(abs(value) - shrink * sqrt(square) / norm, static_cast<real>(0));
      value = value > 0 ? size : -size;
    }
    filled[image * static_cast<long long>(py) * px + here] = value;
  }
}

}  // extern "C"
