// What follows from the PSF stamps alone (part of zogy.cu): their spectra on any frame, and on a small grid in double
// precision the score kernels k_n and k_r, their sums, and their squares laid out on a frame.
// Reference: astrid_gpu/ops/zogy.py.  Launch: astrid_gpu/backends/cuda/zogy_maps.py.
//
// k has compact support: on a grid a few PSFs wide it is the same as on the whole frame, which saves the transforms of
// whole frames in double precision. Whether it has died out at the rim of the small grid is measured (`tails`).
#ifndef ASTRID_GPU_ZOGY_STAMPS_CUH
#define ASTRID_GPU_ZOGY_STAMPS_CUH
#include "common.cuh"

#define SPECTRUM_ROWS 8  // rows of the spectrum a thread makes: each value it loads serves as many

struct Filter {  // s_n, s_r, F_n, F_r and the floor of the denominator, as in astrid_gpu/ops/zogy.py
  double a, b, n, r, floor;
};
__device__ __forceinline__ Filter filter_of(const double* p) {
  const double s_n = p[0], s_r = p[1], f_n = p[2], f_r = p[3];
  return {s_n * s_n * f_r * f_r, s_r * s_r * f_n * f_n, f_n * f_r * f_r, f_r * f_n * f_n, p[4]};
}

extern "C" {

// A direct transform, in double, of stamps with few pixels: first along x,
//   lines(j, u) = sum_i stamp(j, i) across(i, u)
// stamps (m, ky, kx); across (kx, hx) phases exp(-2 pi i u (i - kx / 2) / px); lines (m, ky, hx).
// Launch: grid (ceil(hx / 128), ky, m), block 128.
__global__ void __launch_bounds__(128) stamp_lines(
    const double* __restrict__ stamps, const double2* __restrict__ across, double2* __restrict__ lines, int ky, int kx,
    int hx) {
  const int u = blockIdx.x * blockDim.x + threadIdx.x;
  if (u >= hx) return;  // no barrier below
  const long long row = blockIdx.z * static_cast<long long>(ky) + blockIdx.y;
  double2 sum = make_double2(0.0, 0.0);
  for (int i = 0; i < kx; ++i) sum = cadd(sum, cscale(across[static_cast<long long>(i) * hx + u], stamps[row * kx + i]));
  lines[row * hx + u] = sum;
}

// ... then along y:  spectrum(v, u) = sum_j lines(j, u) down(v, j), down = exp(-2 pi i v (j - ky / 2) / py), (py, ky).
// spectrum (m, py, hx) in `real`. Launch: grid (ceil(hx / 128), ceil(py / 8), m), block 128. `lines` comes from the L2
// cache an eighth as often as there are rows; the phases are the same for a warp. Bytes: 8 written a frequency.
__global__ void __launch_bounds__(128) stamp_spectrum(
    const double2* __restrict__ lines, const double2* __restrict__ down, real2* __restrict__ spectrum, int ky, int py,
    int hx) {
  const int u = blockIdx.x * blockDim.x + threadIdx.x, v0 = blockIdx.y * SPECTRUM_ROWS;
  if (u >= hx) return;  // no barrier below
  const double2* own = lines + blockIdx.z * static_cast<long long>(ky) * hx + u;
  double2 sum[SPECTRUM_ROWS];
#pragma unroll
  for (int k = 0; k < SPECTRUM_ROWS; ++k) sum[k] = make_double2(0.0, 0.0);
  for (int j = 0; j < ky; ++j) {
    const double2 value = own[static_cast<long long>(j) * hx];
#pragma unroll
    for (int k = 0; k < SPECTRUM_ROWS; ++k) {
      const int v = min(v0 + k, py - 1);
      sum[k] = cadd(sum[k], cmul(value, down[static_cast<long long>(v) * ky + j]));
    }
  }
#pragma unroll
  for (int k = 0; k < SPECTRUM_ROWS; ++k) {
    const long long v = v0 + k;
    if (v < py)
      spectrum[(blockIdx.z * static_cast<long long>(py) + v) * hx + u] =
          make_real2(static_cast<real>(sum[k].x), static_cast<real>(sum[k].y));
  }
}

// spectra *= Re(factors): what makes noise white, or what is left of its colour. Transforms of symmetric kernels are real.
// spectra (n, size), factors by stride (0: shared). Launch: grid (ceil(size / 128), n), block 128.
// Bytes: 16 read and 8 written a frequency (single precision).
__global__ void __launch_bounds__(128) scale_spectra(
    real2* __restrict__ spectra, const real2* __restrict__ factors, long long size, long long stride) {
  const long long i = grid_first(), image = blockIdx.y;
  if (i >= size) return;  // no barrier below
  const real factor = factors[image * stride + i].x;
  const real2 value = spectra[image * size + i];
  spectra[image * size + i] = make_real2(value.x * factor, value.y * factor);
}

// kn = F_n F_r^2 conj(P_n) |P_r|^2 / den (29), kr = F_r F_n^2 conj(P_r) |P_n|^2 / den (28), 0 where den <= floor; times
// `norm`, so that an unnormalised inverse transform gives k itself.
// Pn (n, size) by stride_n, Pr by stride_r (0: shared); params (n, 5). Launch: grid (ceil(size / 128), n), block 128.
__global__ void __launch_bounds__(128) score_kernels(
    const double2* __restrict__ Pn, const double2* __restrict__ Pr, const double* __restrict__ params,
    double2* __restrict__ kn, double2* __restrict__ kr, double norm, int size, int stride_n, int stride_r) {
  const int i = static_cast<int>(grid_first()), image = blockIdx.y;
  if (i >= size) return;  // no barrier below
  const Filter f = filter_of(params + image * 5);
  const double2 pn = Pn[static_cast<long long>(image) * stride_n + i], pr = Pr[static_cast<long long>(image) * stride_r + i];
  const double pn2 = cabs2(pn), pr2 = cabs2(pr), den = f.a * pr2 + f.b * pn2;
  const double share = den > f.floor ? norm / den : 0.0;
  const long long at = static_cast<long long>(image) * size + i;
  kn[at] = make_double2(f.n * pr2 * share * pn.x, -f.n * pr2 * share * pn.y);
  kr[at] = make_double2(f.r * pn2 * share * pr.x, -f.r * pn2 * share * pr.y);
}

// The numbers of an image: F_S (42) = mean over all frequencies of F_n^2 F_r^2 |P_n|^2 |P_r|^2 / den, sum of k_n^2 + k_r^2,
// and the larger of max |k| on the rim of the grid over max |k|, for each kernel.
//   scales (n, 3): gain, 1 / (F_S gain), 1e-6 sum(k_n^2 + k_r^2), the floor of V;   tails (n)
// Pn, Pr (n, gy, gx / 2 + 1) on the grid, by strides; kn, kr (n, gy, gx) by stride_k; gains (n).
// Launch: grid n, block 256; sums in a fixed order.
__global__ void __launch_bounds__(256) kernel_numbers(
    const double2* __restrict__ Pn, const double2* __restrict__ Pr, const double* __restrict__ params,
    const double* __restrict__ gains, const double* __restrict__ kn, const double* __restrict__ kr,
    float* __restrict__ scales, float* __restrict__ tails, int gy, int gx, int stride_n, int stride_r, int stride_k) {
  __shared__ double parts[6][8];
  const int image = blockIdx.x, hx = gx / 2 + 1, t = threadIdx.x;
  const Filter f = filter_of(params + image * 5);
  const double2 *pn = Pn + static_cast<long long>(image) * stride_n, *pr = Pr + static_cast<long long>(image) * stride_r;
  double norm = 0.0, squares = 0.0, most[4] = {0.0, 0.0, 0.0, 0.0};  // max |kn|, |kr|; the same on the rim
  for (int i = t; i < gy * hx; i += 256) {
    const double pn2 = cabs2(pn[i]), pr2 = cabs2(pr[i]), den = f.a * pr2 + f.b * pn2;
    const int u = i % hx;
    const double weight = u == 0 || 2 * u == gx ? 1.0 : 2.0;
    if (den > f.floor) norm += weight * pn2 * pr2 / den;
  }
  for (int i = t; i < gy * gx; i += 256) {
    const long long at = static_cast<long long>(image) * stride_k + i;
    const double a = abs(kn[at]), b = abs(kr[at]);
    const int y = i / gx, x = i % gx;
    squares += a * a + b * b;
    most[0] = max(most[0], a);
    most[1] = max(most[1], b);
    if (y == gy / 2 || x == gx / 2) {
      most[2] = max(most[2], a);
      most[3] = max(most[3], b);
    }
  }
  norm = warp_sum(norm);
  squares = warp_sum(squares);
  for (int step = 16; step > 0; step >>= 1)
    for (int k = 0; k < 4; ++k) most[k] = max(most[k], __shfl_down_sync(FULL_WARP, most[k], step));
  if ((t & 31) == 0) {
    parts[0][t >> 5] = norm;
    parts[1][t >> 5] = squares;
    for (int k = 0; k < 4; ++k) parts[2 + k][t >> 5] = most[k];
  }
  __syncthreads();
  if (t != 0) return;
  for (int w = 1; w < 8; ++w) {
    norm += parts[0][w];
    squares += parts[1][w];
    for (int k = 0; k < 4; ++k) most[k] = max(most[k], parts[2 + k][w]);
  }
  const double both = params[image * 5 + 2] * params[image * 5 + 3];  // F_n F_r
  const double flux_norm = both * both * norm / (static_cast<double>(gy) * gx);
  scales[image * 3] = static_cast<float>(gains[image]);
  scales[image * 3 + 1] = static_cast<float>(1.0 / (flux_norm * gains[image]));
  scales[image * 3 + 2] = static_cast<float>(1e-6 * squares);
  tails[image] = static_cast<float>(max(most[2] / max(most[0], 1e-300), most[3] / max(most[1], 1e-300)));
}

// frame = k^2 (absolute = 0) or |k| (1) of a small periodic grid about pixel (0, 0), laid out on a large one, else 0.
// k (n, gy, gx); frame (n, py, px), gy <= py, gx <= px. Launch: grid (ceil(px / 32), ceil(py / 8), n), block (32, 8).
__global__ void __launch_bounds__(256) place_kernel(
    const double* __restrict__ k, float* __restrict__ frame, int gy, int gx, int py, int px, int absolute) {
  const int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
  if (x >= px || y >= py) return;  // no barrier below
  const int low_y = (gy + 1) / 2, low_x = (gx + 1) / 2;  // offsets 0 .. low - 1, and -(g - low) .. -1
  const int j = y < low_y ? y : (y >= py - (gy - low_y) ? y - py + gy : -1);
  const int i = x < low_x ? x : (x >= px - (gx - low_x) ? x - px + gx : -1);
  float value = 0.0f;
  if (j >= 0 && i >= 0) {
    const double own = k[(blockIdx.z * static_cast<long long>(gy) + j) * gx + i];
    value = static_cast<float>(absolute ? abs(own) : own * own);
  }
  frame[(blockIdx.z * static_cast<long long>(py) + y) * px + x] = value;
}

}  // extern "C"
#endif
