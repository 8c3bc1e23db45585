// From images with holes and edges to periodic frames without, in one pass each (part of zogy.cu; single precision),
// and the look at the pixels that comes before.
// Reference: astrid_gpu/engine/_frames.py and astrid_gpu/ops/fill.py.  Launch: astrid_gpu/backends/cuda/zogy_maps.py.
//
// A frame (py, px) holds the image in its first ny rows and nx columns, times `scale`. A pixel is bad beyond the image
// or where its flags share a bit with `invalid`. Flags (ny, nx) may be null: nothing inside is bad.
#ifndef ASTRID_GPU_ZOGY_FRAMES_CUH
#define ASTRID_GPU_ZOGY_FRAMES_CUH
#include "common.cuh"

#define FRAME_ROWS 4  // of a thread, 8 apart: four loads under way before the first is used

struct Holes {
  const unsigned char* flags;
  int ny, nx, invalid;
};
__device__ __forceinline__ bool is_bad(const Holes& h, int y, int x) {
  if (y >= h.ny || x >= h.nx) return true;
  return h.flags != nullptr && (h.flags[static_cast<long long>(y) * h.nx + x] & h.invalid) != 0;
}

// The fill of a bad pixel from the good ones round it (x) and the part of its window that is missing (y):
// v = sum_q G I g / W, s = sqrt(sum_q G^2 g) / W, W = sum_q G g + fade sum_q G; sign(v) max(|v| - shrink s, 0)
__device__ __forceinline__ float2 fill_hole(const float* image, const Holes& h, const float* line, float full, float scale, int y, int x,
                            int py, int px, int radius, float fade, float shrink) {
  float total = 0, weight = 0, square = 0;
  for (int dy = -radius; dy <= radius; ++dy) {
    int yy = y + dy;
    yy += yy < 0 ? py : (yy >= py ? -py : 0);
    if (yy >= h.ny) continue;  // padding
    float row_total = 0, row_weight = 0, row_square = 0;
    for (int dx = -radius; dx <= radius; ++dx) {
      int xx = x + dx;
      xx += xx < 0 ? px : (xx >= px ? -px : 0);
      if (is_bad(h, yy, xx)) continue;  // a bad pixel may hold NaN: it is never multiplied
      const float w = line[abs(dx)];
      row_total += w * image[static_cast<long long>(yy) * h.nx + xx];
      row_weight += w;
      row_square += w * w;
    }
    const float w = line[abs(dy)];
    total += w * row_total;
    weight += w * row_weight;
    square += w * w * row_square;
  }
  const float norm = weight + fade * full;
  const float value = total * scale / norm;
  const float size = max(abs(value) - shrink * sqrtf(square) / norm, 0.0f);
  return make_float2(value > 0 ? size : -size, min(max(1.0f - weight / full, 0.0f), 1.0f));
}

extern "C" {

// frame = image * scale where good, else its fill;  largest = max |fill|, as the bits of a float (they sort alike);
// error = |fill| uncertainty (part of the window that is missing) where bad and largest > negligible, else 0.
//
// images (n, ny, nx) by image_stride; flags by flag_stride; scales (n) by scale_stride; lines (n, radius + 1), the Gaussian along one
// axis, and fulls (n) = the sum of its square window, both by line_stride (0: shared).
// frame, error (n, py, px) and largest (n): each may be null. `error` reads `largest`, which must be complete: it is
// never asked for together with it.
// Launch: grid (ceil(px / 32), ceil(py / 32), n), block (32, 8). Bytes: 4 + 1 read, 4 written a pixel.
__global__ void __launch_bounds__(256, 3) zogy_frame(
    const float* __restrict__ images, const unsigned char* __restrict__ flags, const float* __restrict__ scales,
    const float* __restrict__ lines, const float* __restrict__ fulls, float* __restrict__ frame,
    float* __restrict__ error, unsigned* largest, int ny, int nx, int py, int px, int radius, int invalid, float fade,
    float shrink, float uncertainty, float negligible, long long image_stride, long long flag_stride, int scale_stride,
    int line_stride) {
  const int image = blockIdx.z, x = blockIdx.x * 32 + threadIdx.x, y0 = blockIdx.y * 32 + threadIdx.y;
  if (x >= px) return;  // no barrier below
  const float* in = images + image * image_stride;
  const Holes holes = {flags == nullptr ? nullptr : flags + image * flag_stride, ny, nx, invalid};
  const int which = line_stride == 0 ? 0 : image;
  const float* line = lines + static_cast<long long>(which) * line_stride;
  const float full = fulls[which], scale = scales[image * scale_stride];
  const long long base = image * static_cast<long long>(py) * px + x;
  float value[FRAME_ROWS];
  unsigned bad = 0;
#pragma unroll
  for (int k = 0; k < FRAME_ROWS; ++k) {
    const int y = y0 + 8 * k;
    if (is_bad(holes, y, x)) bad |= 1u << k;
    value[k] = frame != nullptr && y < ny && x < nx ? in[static_cast<long long>(y) * nx + x] : 0.0f;
  }
#pragma unroll
  for (int k = 0; k < FRAME_ROWS; ++k) {
    const int y = y0 + 8 * k;
    if (bad >> k & 1u || y >= py) continue;
    if (frame != nullptr) frame[base + static_cast<long long>(y) * px] = value[k] * scale;
    if (error != nullptr) error[base + static_cast<long long>(y) * px] = 0.0f;
  }
  const bool follow = error == nullptr || __uint_as_float(largest[image]) > negligible;
  for (; bad != 0; bad &= bad - 1) {
    const int y = y0 + 8 * (__ffs(bad) - 1);
    if (y >= py) return;
    float2 fill = make_float2(0.0f, 0.0f);
    if (follow) fill = fill_hole(in, holes, line, full, scale, y, x, py, px, radius, fade, shrink);
    const long long here = base + static_cast<long long>(y) * px;
    if (frame != nullptr) frame[here] = fill.x;
    if (error != nullptr) error[here] = abs(fill.x) * uncertainty * fill.y;
    else if (largest != nullptr && fill.x != 0.0f) atomicMax(&largest[image], __float_as_uint(abs(fill.x)));
  }
}

// frame = variance * scale^2 where good, else 0. variance (n, ny, nx) by variance_stride, or null: `levels` (n) alone,
// already in units of the noise. scales, levels (n) by scale_stride; flags by flag_stride.
// Launch: as zogy_frame. Bytes: 4 + 1 read, 4 written a pixel.
__global__ void __launch_bounds__(256) zogy_variance(
    const float* __restrict__ variance, const unsigned char* __restrict__ flags, const float* __restrict__ scales,
    const float* __restrict__ levels, float* __restrict__ frame, int ny, int nx, int py, int px, int invalid,
    long long variance_stride, long long flag_stride, int scale_stride) {
  const int image = blockIdx.z, x = blockIdx.x * 32 + threadIdx.x, y0 = blockIdx.y * 32 + threadIdx.y;
  if (x >= px) return;  // no barrier below
  const Holes holes = {flags == nullptr ? nullptr : flags + image * flag_stride, ny, nx, invalid};
  const float* in = variance == nullptr ? nullptr : variance + image * variance_stride;
  const float scale = scales[image * scale_stride], level = levels[image * scale_stride];
  float value[FRAME_ROWS];
  bool bad[FRAME_ROWS];
#pragma unroll
  for (int k = 0; k < FRAME_ROWS; ++k) {
    const int y = y0 + 8 * k;
    bad[k] = is_bad(holes, y, x);
    value[k] = bad[k] ? 0.0f : (in == nullptr ? level : in[static_cast<long long>(y) * nx + x] * scale * scale);
  }
#pragma unroll
  for (int k = 0; k < FRAME_ROWS; ++k) {
    const int y = y0 + 8 * k;
    if (y < py) frame[(image * static_cast<long long>(py) + y) * px + x] = value[k];
  }
}

// out = zero + scale * raw: the integers of a FITS file, as they lie in it (big-endian with `swap`), to float. Products in
// double: 32-bit counts keep their digits until the end. With `variance`: noise + per_count max(out, 0), the background's
// and the photons'. With `flags`: those of `mask` (or 0) and, where raw is `blank`, `bit`; out is 0 there.
// raw, out, variance, flags, mask (total); all but the first two may be null. Launch: grid any, block 256, grid-stride.
// Bytes: 2 or 4 read, 4 written a pixel, 4 more with the variance.
struct Counts {
  float *out, *variance;
  const unsigned char* mask;
  unsigned char* flags;
  double scale, zero, noise, per_count;
  int has_blank, blank, bit;
};
__device__ __forceinline__ void put_count(const Counts& c, long long i, int count) {
  const bool absent = c.has_blank && count == c.blank;
  const double value = absent ? 0.0 : c.zero + c.scale * count;
  c.out[i] = static_cast<float>(value);
  if (c.variance != nullptr) c.variance[i] = static_cast<float>(c.noise + c.per_count * max(value, 0.0));
  if (c.flags != nullptr) c.flags[i] = static_cast<unsigned char>((c.mask == nullptr ? 0 : c.mask[i]) | (absent ? c.bit : 0));
}
__global__ void __launch_bounds__(256) decode_short(
    const unsigned short* __restrict__ raw, const unsigned char* __restrict__ mask, float* __restrict__ out,
    float* __restrict__ variance, unsigned char* __restrict__ flags, double scale, double zero, double noise,
    double per_count, int has_sign, int swap, int has_blank, int blank, int bit, long long total) {
  const Counts counts = {out, variance, mask, flags, scale, zero, noise, per_count, has_blank, blank, bit};
  for (long long i = grid_first(); i < total; i += grid_stride()) {
    unsigned bits = raw[i];
    if (swap) bits = (bits >> 8 | bits << 8) & 0xffffu;
    put_count(counts, i, has_sign ? static_cast<short>(bits) : static_cast<int>(bits));
  }
}
__global__ void __launch_bounds__(256) decode_int(
    const unsigned* __restrict__ raw, const unsigned char* __restrict__ mask, float* __restrict__ out,
    float* __restrict__ variance, unsigned char* __restrict__ flags, double scale, double zero, double noise,
    double per_count, int swap, int has_blank, int blank, int bit, long long total) {
  const Counts counts = {out, variance, mask, flags, scale, zero, noise, per_count, has_blank, blank, bit};
  for (long long i = grid_first(); i < total; i += grid_stride()) {
    unsigned bits = raw[i];
    if (swap) bits = bits >> 24 | (bits >> 8 & 0xff00u) | (bits << 8 & 0xff0000u) | bits << 24;
    put_count(counts, i, static_cast<int>(bits));
  }
}

// Least and largest value of the numbers in each image, and how many pixels are not finite: one read of the stack.
// images (n, ny, nx) flat, size pixels each; parts (n, gridDim.x, 3): least, largest, 1 if all finite, of each block.
// Reference: astrid_gpu/ops/extremes.py.  Launch: grid (any, n), block 256, grid-stride, four loads under way a thread;
// astrid_gpu/backends/cuda/extremes.py. The host puts the parts together: no atomics, no order.
__global__ void __launch_bounds__(256) image_extremes(
    const real* __restrict__ images, real* __restrict__ parts, long long size) {
  __shared__ real least[8], largest[8];
  const real* image = images + blockIdx.y * size;
  const long long step = grid_stride() * 4;
  real low = static_cast<real>(INFINITY_F), high = -low;
  bool good = true;
  for (long long base = blockIdx.x * 1024ll + threadIdx.x; base < size; base += step) {
    real value[4];
#pragma unroll
    for (int k = 0; k < 4; ++k) value[k] = base + 256 * k < size ? image[base + 256 * k] : image[base];
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      good = good && isfinite(value[k]);
      low = min(low, value[k]);
      high = max(high, value[k]);  // the one that is a number, where one is NaN
    }
  }
  for (int d = 16; d > 0; d >>= 1) {
    low = min(low, __shfl_down_sync(FULL_WARP, low, d));
    high = max(high, __shfl_down_sync(FULL_WARP, high, d));
  }
  if ((threadIdx.x & 31) == 0) {
    least[threadIdx.x >> 5] = low;
    largest[threadIdx.x >> 5] = high;
  }
  const bool all = __syncthreads_and(good);
  if (threadIdx.x != 0) return;
  for (int w = 1; w < 8; ++w) {
    low = min(low, least[w]);
    high = max(high, largest[w]);
  }
  real* out = parts + (blockIdx.y * static_cast<long long>(gridDim.x) + blockIdx.x) * 3;
  out[0] = low;
  out[1] = high;
  out[2] = all ? real(1) : real(0);
}

}  // extern "C"
#endif
