// Fused ZOGY combination and finish (Zackay, Ofek & Gal-Yam 2016, ApJ 830, 27; eqs. in brackets).
// Reference: astrid_gpu/ops/zogy.py.  CPU twin: zogy_numba.py.  Launch: astrid_gpu/backends/cuda/zogy.py.
#include "common.cuh"

extern "C" {

// One thread = one frequency at a time, grid-stride; blockIdx.y = image.
//
//   den  = s_n^2 F_r^2 |P_r|^2 + s_r^2 F_n^2 |P_n|^2
//   D    = (F_r P_r N - F_n P_n R) / sqrt(den)        (13)   where den > floor, else (F_r N - F_n R) / sqrt(white)
//   S_N  = F_n F_r^2 conj(P_n) |P_r|^2 N / den        (31)                      else 0
//   S_R  = F_r F_n^2 conj(P_r) |P_n|^2 R / den        (33)                      else 0
//   with white = s_n^2 F_r^2 + s_r^2 F_n^2.
//
// N, D, Sn, Sr: (n, size). R, Pn, Pr: (n, size), or (size) shared by the stack: then the stride between images is 0.
// params (n, 5): s_n, s_r, F_n, F_r, floor.  Everything in registers; 32 B read and 24 B written a frequency.
__global__ void __launch_bounds__(256) zogy_spectra(
    const real2* __restrict__ N, const real2* __restrict__ R, const real2* __restrict__ Pn,
    const real2* __restrict__ Pr, const real* __restrict__ params, real2* __restrict__ D, real2* __restrict__ Sn,
    real2* __restrict__ Sr, long long size, long long stride_r, long long stride_pn, long long stride_pr) {
  const long long image = blockIdx.y;
  const real s_n = params[image * 5 + 0], s_r = params[image * 5 + 1];
  const real f_n = params[image * 5 + 2], f_r = params[image * 5 + 3], floor = params[image * 5 + 4];
  const real a = s_n * s_n * f_r * f_r, b = s_r * s_r * f_n * f_n;
  const real white = inverse_sqrt(a + b);
  const long long at = image * size;
  for (long long i = grid_first(); i < size; i += grid_stride()) {
    const real2 n = N[at + i], r = R[image * stride_r + i];
    const real2 pn = Pn[image * stride_pn + i], pr = Pr[image * stride_pr + i];
    const real pn2 = cabs2(pn), pr2 = cabs2(pr);
    const real den = a * pr2 + b * pn2;
    if (den > floor) {
      const real root = inverse_sqrt(den), inverse = real(1) / den;
      const real2 matched = csub(cscale(cmul(pr, n), f_r), cscale(cmul(pn, r), f_n));
      D[at + i] = cscale(matched, root);
      Sn[at + i] = cscale(cmul_conj(n, pn), f_n * f_r * f_r * pr2 * inverse);
      Sr[at + i] = cscale(cmul_conj(r, pr), f_r * f_n * f_n * pn2 * inverse);
    } else {
      D[at + i] = cscale(csub(cscale(n, f_r), cscale(r, f_n)), white);
      Sn[at + i] = make_real2(real(0), real(0));
      Sr[at + i] = make_real2(real(0), real(0));
    }
  }
}
}
