// Fused ZOGY combination and finish (Zackay, Ofek & Gal-Yam 2016, ApJ 830, 27; equation numbers in brackets).
// Reference: astrid_gpu/ops/zogy.py.  CPU twin: zogy_numba.py.  Launch: astrid_gpu/backends/cuda/zogy.py.
// real is float, or double with -DASTRID_DOUBLE.
// The whole subtraction, fused, is in three headers: zogy_frames.cuh (from images to frames), zogy_stamps.cuh (what
// follows from the PSFs), zogy_maps.cuh (between the transforms, and after them).
#include "common.cuh"
#include "zogy_frames.cuh"
#include "zogy_maps.cuh"
#include "zogy_stamps.cuh"

extern "C" {

// den  = s_n^2 F_r^2 |P_r|^2 + s_r^2 F_n^2 |P_n|^2
// D    = (F_r P_r N - F_n P_n R) / sqrt(den)      (13)  where den > floor, else (F_r N - F_n R) / sqrt(white)
// S_N  = F_n F_r^2 conj(P_n) |P_r|^2 N / den      (31)                     else 0
// S_R  = F_r F_n^2 conj(P_r) |P_n|^2 R / den      (33)                     else 0
// with white = s_n^2 F_r^2 + s_r^2 F_n^2.
//
// N, D, Sn, Sr: (n, size) half spectra, flat. R, Pn, Pr: (n, size), or (1, size) shared by the stack: stride 0.
// params: (n, 5) s_n, s_r, F_n, F_r, floor.
// Launch: grid (blocks, images), block 256; a thread walks frequencies by the grid's stride. All in registers (with three
// blocks an SM asked for, the compiler spills none in double precision either); 32 bytes
// are read and 24 written a frequency (single precision), so it runs at the speed of memory.
__global__ void __launch_bounds__(256, 3) zogy_spectra(
    const real2* __restrict__ N, const real2* __restrict__ R, const real2* __restrict__ Pn,
    const real2* __restrict__ Pr, const real* __restrict__ params, real2* __restrict__ D, real2* __restrict__ Sn,
    real2* __restrict__ Sr, int images, long long size, long long stride_r, long long stride_pn, long long stride_pr) {
  for (int image = blockIdx.y; image < images; image += gridDim.y) {
    const real* p = params + image * 5;
    const real s_n = p[0], s_r = p[1], f_n = p[2], f_r = p[3], floor_of_den = p[4];
    const real a = s_n * s_n * f_r * f_r, b = s_r * s_r * f_n * f_n;
    const real white = inverse_sqrt(a + b);
    const long long at = image * size;
    for (long long i = grid_first(); i < size; i += grid_stride()) {
      const real2 n = N[at + i], r = R[image * stride_r + i];
      const real2 pn = Pn[image * stride_pn + i], pr = Pr[image * stride_pr + i];
      const real pn2 = cabs2(pn), pr2 = cabs2(pr);
      const real den = a * pr2 + b * pn2;
      const bool usable = den > floor_of_den;
      const real inverse = usable ? real(1) / den : real(0);
      const real2 matched = csub(cscale(cmul(pr, n), f_r), cscale(cmul(pn, r), f_n));
      const real2 plain = csub(cscale(n, f_r), cscale(r, f_n));
      D[at + i] = usable ? cscale(matched, inverse_sqrt(den)) : cscale(plain, white);
      Sn[at + i] = cscale(cmul_conj(n, pn), f_n * f_r * f_r * pr2 * inverse);
      Sr[at + i] = cscale(cmul_conj(r, pr), f_r * f_n * f_n * pn2 * inverse);
    }
  }
}

// Square of the central difference of a periodic line: pixels before and after.
__device__ __forceinline__ real slope_squared(real before, real after) {
  const real slope = (after - before) * real(0.5);
  return slope * slope;
}

// S = S_N - S_R; V = max(variance, floor); V_ast from the gradients of S_N and S_R, central and periodic (30, 32), and
// (epsilon S_0)^2 for the relative error epsilon of the flux ratio; S_0 = min(|S_N|, |S_R|) of one sign, else 0
// score = S scale;  score_corr = S / sqrt(V + V_ast) (25);  flux = S factor (41);  flux_error = sqrt(V) factor (43)
//
// Sn, Sr: (n, py, px) periodic frames; the image is their first ny rows and nx columns.
// variance: any of (n|1, py|1, px|1) by its strides, 0 where it is shared.
// scales: (n, 3) scale, factor, floor.  errors: (n, 3) 1-sigma registration noise in y and x, pixels; epsilon.
// Outputs (n, ny, nx); those not wanted are null.
// Launch: grid (ceil(nx / 32), ceil(ny / 8), images), block (32, 8): a pixel a thread. An image without registration
// noise reads no neighbours.
__global__ void __launch_bounds__(256) zogy_finish(
    const real* __restrict__ Sn, const real* __restrict__ Sr, const real* __restrict__ variance,
    const real* __restrict__ scales, const real* __restrict__ errors, real* __restrict__ score,
    real* __restrict__ score_corr, real* __restrict__ flux, real* __restrict__ flux_error, int images, int py, int px,
    int ny, int nx, long long variance_image, int variance_row, int variance_column) {
  const int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
  if (x >= nx || y >= ny) return;  // no barrier below
  for (int image = blockIdx.z; image < images; image += gridDim.z) {
    const real scale = scales[image * 3], factor = scales[image * 3 + 1], floor_of_v = scales[image * 3 + 2];
    const real sigma_y = errors[image * 3], sigma_x = errors[image * 3 + 1], epsilon = errors[image * 3 + 2];
    const long long frame = image * static_cast<long long>(py) * px;
    const long long here = frame + static_cast<long long>(y) * px + x;
    const long long out = (image * static_cast<long long>(ny) + y) * nx + x;
    const real s = Sn[here] - Sr[here];
    const real given = variance[image * variance_image + static_cast<long long>(y) * variance_row + x * variance_column];
    const real photon = given < floor_of_v ? floor_of_v : given;  // keeps NaN, as the reference does
    if (score != nullptr) score[out] = s * scale;
    if (flux != nullptr) flux[out] = s * factor;
    if (flux_error != nullptr) flux_error[out] = sqrt(photon) * factor;
    if (score_corr == nullptr) continue;
    const real a = Sn[here], b = Sr[here];
    const real part = a * b > real(0) ? epsilon * min(abs(a), abs(b)) : real(0);
    real total = photon + part * part;
    if (sigma_y > real(0) || sigma_x > real(0)) {
      const long long left = here + (x > 0 ? -1 : px - 1), right = here + (x < px - 1 ? 1 : 1 - px);
      const long long row = px, up = here + (y > 0 ? -row : row * (py - 1)), down = here + (y < py - 1 ? row : row * (1 - py));
      total += sigma_y * sigma_y * (slope_squared(Sn[up], Sn[down]) + slope_squared(Sr[up], Sr[down]));
      total += sigma_x * sigma_x * (slope_squared(Sn[left], Sn[right]) + slope_squared(Sr[left], Sr[right]));
    }
    score_corr[out] = s / sqrt(total);
  }
}

}  // extern "C"
