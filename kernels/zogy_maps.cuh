// The fused whole of a subtraction between its Fourier transforms (part of zogy.cu; single precision): one kernel makes
// all spectra that go back, one makes every map, masks it, and can look for peaks on the way.
// Reference: astrid_gpu/ops/zogy.py and astrid_gpu/ops/peaks.py.  Launch: astrid_gpu/backends/cuda/zogy_maps.py.
#ifndef ASTRID_GPU_ZOGY_MAPS_CUH
#define ASTRID_GPU_ZOGY_MAPS_CUH
#include "common.cuh"

struct Mix {  // one image's numbers, and 1 / (number of pixels) folded in: no pass divides by it
  float a, b, f_n, f_r, floor, white, score, difference;
};
__device__ __forceinline__ Mix mix_of(const float* p) {
  const float a = p[0] * p[0] * p[3] * p[3], b = p[1] * p[1] * p[2] * p[2];
  return {a, b, p[2], p[3], p[4], rsqrtf(a + b), p[5], p[6]};
}

// D (13), S_N (31) and S_R (33) of one frequency, as in zogy_spectra.
struct Trio {
  float2 d, sn, sr;
};
__device__ __forceinline__ Trio mix(const Mix& m, float2 n, float2 r, float2 pn, float2 pr) {
  const float pn2 = cabs2(pn), pr2 = cabs2(pr), den = m.a * pr2 + m.b * pn2;
  const bool usable = den > m.floor;
  const float share = usable ? m.score / den : 0.0f;
  const float2 matched = csub(cscale(cmul(pr, n), m.f_r), cscale(cmul(pn, r), m.f_n));
  const float2 plain = csub(cscale(n, m.f_r), cscale(r, m.f_n));
  Trio out;
  out.d = cscale(usable ? matched : plain, (usable ? rsqrtf(den) : m.white) * m.difference);
  out.sn = cscale(cmul_conj(n, pn), m.f_n * m.f_r * m.f_r * pr2 * share);
  out.sr = cscale(cmul_conj(r, pr), m.f_r * m.f_n * m.f_n * pn2 * share);
  return out;
}
__device__ __forceinline__ float2 low(float4 v) { return make_float2(v.x, v.y); }
__device__ __forceinline__ float2 high(float4 v) { return make_float2(v.z, v.w); }
__device__ __forceinline__ float4 both(float2 a, float2 b) { return make_float4(a.x, a.y, b.x, b.y); }

// S_N - S_R and V of a pixel, and what V_ast and the flux ratio add (25-33); see zogy_finish in zogy.cu.
struct Maps {
  const float *Sn, *Sr, *V, *E;  // of one image; Sr null: Sn is S already; E null: nothing was filled
  float gain, factor, floor, sigma_y, sigma_x, epsilon;
  int py, px;
};
__device__ __forceinline__ float difference_squared(float before, float after) {
  const float slope = (after - before) * 0.5f;
  return slope * slope;
}
__device__ __forceinline__ float photon_variance(const Maps& m, long long at) {
  const float given = m.V[at];
  float photon = given < m.floor ? m.floor : given;  // keeps NaN, as the reference does
  if (m.E != nullptr) {
    const float bound = max(m.E[at], 0.0f);
    photon += bound * bound;
  }
  return photon;
}
__device__ __forceinline__ float score_at(const Maps& m, long long at) {
  return m.Sr == nullptr ? m.Sn[at] : m.Sn[at] - m.Sr[at];
}
__device__ __forceinline__ float whole_variance(const Maps& m, int y, int x, long long at, float photon) {
  if (m.Sr == nullptr) return photon;
  const float a = m.Sn[at], b = m.Sr[at];
  const float part = a * b > 0.0f ? m.epsilon * min(abs(a), abs(b)) : 0.0f;
  float total = photon + part * part;
  if (m.sigma_y > 0.0f) {
    const long long row = m.px, up = at + (y > 0 ? -row : row * (m.py - 1)), down = at + (y < m.py - 1 ? row : row * (1 - m.py));
    total += m.sigma_y * m.sigma_y * (difference_squared(m.Sn[up], m.Sn[down]) + difference_squared(m.Sr[up], m.Sr[down]));
  }
  if (m.sigma_x > 0.0f) {
    const long long left = at + (x > 0 ? -1 : m.px - 1), right = at + (x < m.px - 1 ? 1 : 1 - m.px);
    total += m.sigma_x * m.sigma_x * (difference_squared(m.Sn[left], m.Sn[right]) + difference_squared(m.Sr[left], m.Sr[right]));
  }
  return total;
}
__device__ __forceinline__ Maps maps_of(const float* Sn, const float* Sr, const float* V, const float* E,
                                        const float* scales, const float* errors, int image, int py, int px,
                                        long long v_stride, int scale_stride) {
  const long long frame = image * static_cast<long long>(py) * px;
  const float *s = scales + image * scale_stride, *e = errors + image * 3;
  Maps m;
  m.Sn = Sn == nullptr ? nullptr : Sn + frame;
  m.Sr = Sr == nullptr ? nullptr : Sr + frame;
  m.V = V == nullptr ? nullptr : V + image * v_stride;
  m.E = E == nullptr ? nullptr : E + frame;
  m.gain = s[0], m.factor = s[1], m.floor = s[2];
  m.sigma_y = e[0], m.sigma_x = e[1], m.epsilon = e[2];
  m.py = py, m.px = px;
  return m;
}

extern "C" {

// D and S of all images of a batch. N, D, Sn, Sr (n, size) half spectra, flat, size even; D may be N's memory, and Sn
// R's: a thread reads all of a frequency before it writes. R, Pn, Pr by strides (0: shared by the batch, and then read
// once for all its images). params (n, 8): s_n, s_r, F_n, F_r, floor, factor of S, factor of D, unused.
// D, Sn and Sr may be null; Sr null: Sn gets S_N - S_R.
// Launch: grid any, block 256; two frequencies (16 bytes) a thread, images in turn.
// Bytes: 8 read and 8 to 24 written a frequency and image, 24 read a frequency and batch.
__global__ void __launch_bounds__(256) zogy_combine(
    const float2* N, const float2* R, const float2* __restrict__ Pn, const float2* __restrict__ Pr,
    const float* __restrict__ params, float2* D, float2* Sn, float2* Sr, int images, long long size, long long stride_r,
    long long stride_pn, long long stride_pr) {
  const long long pairs = size / 2;
  for (long long i = grid_first(); i < pairs; i += grid_stride()) {
    float4 r = reinterpret_cast<const float4*>(R)[i];
    float4 pn = reinterpret_cast<const float4*>(Pn)[i], pr = reinterpret_cast<const float4*>(Pr)[i];
    for (int image = 0; image < images; ++image) {
      const float4 n = reinterpret_cast<const float4*>(N + image * size)[i];
      if (image > 0 && stride_r != 0) r = reinterpret_cast<const float4*>(R + image * stride_r)[i];
      if (image > 0 && stride_pn != 0) pn = reinterpret_cast<const float4*>(Pn + image * stride_pn)[i];
      if (image > 0 && stride_pr != 0) pr = reinterpret_cast<const float4*>(Pr + image * stride_pr)[i];
      const Mix m = mix_of(params + image * 8);
      const Trio one = mix(m, low(n), low(r), low(pn), low(pr)), two = mix(m, high(n), high(r), high(pn), high(pr));
      const long long at = image * size;
      if (D != nullptr) reinterpret_cast<float4*>(D + at)[i] = both(one.d, two.d);
      if (Sn == nullptr) continue;
      if (Sr == nullptr) {
        reinterpret_cast<float4*>(Sn + at)[i] = both(csub(one.sn, one.sr), csub(two.sn, two.sr));
      } else {
        reinterpret_cast<float4*>(Sn + at)[i] = both(one.sn, two.sn);
        reinterpret_cast<float4*>(Sr + at)[i] = both(one.sr, two.sr);
      }
    }
  }
}

// out = (A a + B b) factor: two maps convolved with their kernels and added (26, 27), in one spectrum. B or b may be
// null: out = (A a + B) factor, or A a factor. All (n, size), by strides; out may be the memory of any input of stride
// size. Launch: as zogy_combine. Bytes: 32 read or less and 8 written a frequency and image.
__global__ void __launch_bounds__(256) zogy_weigh(
    const float2* A, const float2* a, const float2* B, const float2* b, float2* out, float factor, int images,
    long long size, long long stride_A, long long stride_a, long long stride_B, long long stride_b) {
  const long long pairs = size / 2;
  const float4 nothing = make_float4(0.0f, 0.0f, 0.0f, 0.0f), one = make_float4(1.0f, 0.0f, 1.0f, 0.0f);
  for (long long i = grid_first(); i < pairs; i += grid_stride()) {
    float4 map = nothing, kernel = nothing, other = nothing, weight = one;
    for (int image = 0; image < images; ++image) {
      if (image == 0 || stride_A != 0) map = reinterpret_cast<const float4*>(A + image * stride_A)[i];
      if (image == 0 || stride_a != 0) kernel = reinterpret_cast<const float4*>(a + image * stride_a)[i];
      if (B != nullptr && (image == 0 || stride_B != 0)) other = reinterpret_cast<const float4*>(B + image * stride_B)[i];
      if (b != nullptr && (image == 0 || stride_b != 0)) weight = reinterpret_cast<const float4*>(b + image * stride_b)[i];
      const float2 first = cadd(cmul(low(map), low(kernel)), cmul(low(other), low(weight)));
      const float2 second = cadd(cmul(high(map), high(kernel)), cmul(high(other), high(weight)));
      reinterpret_cast<float4*>(out + image * size)[i] = both(cscale(first, factor), cscale(second, factor));
    }
  }
}

// The maps asked for, cropped, NaN where flags & invalid:  difference = D;  score = S gain;  score_corr = S / sqrt(V +
// V_ast) (25);  flux = S factor (41);  flux_error = sqrt(V) factor (43).
//
// D, Sn, Sr, E (n, py, px) or null; V by v_stride or null; scales (n, 3) by scale_stride: gain, factor, floor of V;
// errors (n, 3) registration noise in y and x in pixels, relative error of the flux ratio; flags by flag_stride or null.
// Outputs (n, ny, nx) or null. Launch: grid (ceil(nx / 32), ceil(ny / 8), n), block (32, 8): a pixel a thread.
// Bytes: 4 read for each input and 1 for the flags, 4 written for each output.
__global__ void __launch_bounds__(256) zogy_output(
    const float* __restrict__ D, const float* __restrict__ Sn, const float* __restrict__ Sr, const float* __restrict__ V,
    const float* __restrict__ E, const unsigned char* __restrict__ flags, const float* __restrict__ scales,
    const float* __restrict__ errors, float* __restrict__ difference, float* __restrict__ score,
    float* __restrict__ score_corr, float* __restrict__ flux, float* __restrict__ flux_error, int py, int px, int ny,
    int nx, int invalid, long long v_stride, long long flag_stride, int scale_stride) {
  const int image = blockIdx.z, x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
  if (x >= nx || y >= ny) return;  // no barrier below
  const long long at = static_cast<long long>(y) * px + x, pixel = static_cast<long long>(y) * nx + x;
  const long long out = image * static_cast<long long>(ny) * nx + pixel;
  const bool dead = flags != nullptr && (flags[image * flag_stride + pixel] & invalid) != 0;
  if (difference != nullptr) difference[out] = dead ? NAN_F : D[image * static_cast<long long>(py) * px + at];
  if (Sn == nullptr) return;
  const Maps m = maps_of(Sn, Sr, V, E, scales, errors, image, py, px, v_stride, scale_stride);
  const float s = score_at(m, at);
  if (score != nullptr) score[out] = dead ? NAN_F : s * m.gain;
  if (flux != nullptr) flux[out] = dead ? NAN_F : s * m.factor;
  if (V == nullptr) return;
  const float photon = photon_variance(m, at);
  if (flux_error != nullptr) flux_error[out] = dead ? NAN_F : sqrtf(photon) * m.factor;
  if (score_corr != nullptr) score_corr[out] = dead ? NAN_F : s / sqrtf(whole_variance(m, y, x, at, photon));
}

// zogy_output, and the peaks of score_corr appended as kernels/peaks.cu does, without score_corr ever being written
// unless it is asked for: a peak is above the threshold, above its earlier neighbours and not below its later ones.
// thresholds (n); both: minima below -threshold too; first_image: number of the batch's first image in the keys.
// Appended: key = image * ny * nx + pixel, value, tied; count (1) goes on past `capacity`.
// Launch: as zogy_output. A block makes S_corr of its 32 x 8 pixels and their border, 340 for 256, in shared memory.
__global__ void __launch_bounds__(256) zogy_detect(
    const float* __restrict__ D, const float* __restrict__ Sn, const float* __restrict__ Sr, const float* __restrict__ V,
    const float* __restrict__ E, const unsigned char* __restrict__ flags, const float* __restrict__ scales,
    const float* __restrict__ errors, float* __restrict__ difference, float* __restrict__ score,
    float* __restrict__ score_corr, float* __restrict__ flux, float* __restrict__ flux_error, int py, int px, int ny,
    int nx, int invalid, long long v_stride, long long flag_stride, int scale_stride,
    const float* __restrict__ thresholds, int two_signs, long long first_image, long long capacity,
    unsigned long long* __restrict__ count, long long* __restrict__ key, double* __restrict__ value,
    unsigned char* __restrict__ tied) {
  __shared__ float tile[10][36];
  const int image = blockIdx.z, x0 = blockIdx.x * 32, y0 = blockIdx.y * 8, t = threadIdx.y * 32 + threadIdx.x;
  const unsigned char* bad = flags == nullptr ? nullptr : flags + image * flag_stride;
  const Maps m = maps_of(Sn, Sr, V, E, scales, errors, image, py, px, v_stride, scale_stride);
  for (int p = t; p < 340; p += 256) {
    const int r = p / 34, c = p % 34, y = y0 + r - 1, x = x0 + c - 1;
    float corrected = NAN_F;  // absent and dead pixels are lower than any
    if (y >= 0 && y < ny && x >= 0 && x < nx && (bad == nullptr || (bad[static_cast<long long>(y) * nx + x] & invalid) == 0)) {
      const long long at = static_cast<long long>(y) * px + x;
      corrected = score_at(m, at) / sqrtf(whole_variance(m, y, x, at, photon_variance(m, at)));
      if (!isfinite(corrected)) corrected = NAN_F;
    }
    tile[r][c] = corrected;
  }
  __syncthreads();
  const int x = x0 + threadIdx.x, y = y0 + threadIdx.y;
  const bool inside = x < nx && y < ny;
  const long long pixel = static_cast<long long>(y) * nx + x, out = image * static_cast<long long>(ny) * nx + pixel;
  const float centre = tile[threadIdx.y + 1][threadIdx.x + 1];
  if (inside) {
    const long long at = static_cast<long long>(y) * px + x;
    const bool dead = bad != nullptr && (bad[pixel] & invalid) != 0;
    if (difference != nullptr) difference[out] = dead ? NAN_F : D[image * static_cast<long long>(py) * px + at];
    if (score_corr != nullptr) score_corr[out] = centre;
    if (score != nullptr) score[out] = dead ? NAN_F : score_at(m, at) * m.gain;
    if (flux != nullptr) flux[out] = dead ? NAN_F : score_at(m, at) * m.factor;
    if (flux_error != nullptr) flux_error[out] = dead ? NAN_F : sqrtf(photon_variance(m, at)) * m.factor;
  }
  const float threshold = thresholds[image];
  int verdict = 0;
  if (inside && (centre > threshold || (two_signs && centre < -threshold))) {
    const float sign = centre > 0.0f ? 1.0f : -1.0f, own = sign * centre;
    verdict = 1;
    for (int k = 0; k < 9; ++k) {
      const float other = sign * tile[threadIdx.y + k / 3][threadIdx.x + k % 3];
      if (k == 4 || isnan(other)) continue;
      if (other > own || (other == own && k < 4)) verdict = 0;
      if (other == own && verdict != 0) verdict = 3;
    }
  }
  const unsigned votes = __ballot_sync(FULL_WARP, verdict != 0);  // all 256 threads are here
  if (votes == 0) return;
  const int lane = t & 31, leader = __ffs(votes) - 1;
  unsigned long long first = 0;
  if (lane == leader) first = atomicAdd(count, static_cast<unsigned long long>(__popc(votes)));
  first = __shfl_sync(FULL_WARP, first, leader);
  const long long slot = static_cast<long long>(first) + __popc(votes & ((1u << lane) - 1u));
  if (verdict != 0 && slot < capacity) {
    key[slot] = (first_image + image) * ny * nx + pixel;
    value[slot] = centre;
    tied[slot] = verdict == 3;
  }
}

// Science, reference and difference round the first peaks of a list, NaN beyond the image: what leaves the device
// instead of maps. key, count as zogy_detect appends them; science, difference (n, ny, nx) of the batch that starts at
// image first_image; reference (n, ny, nx) by reference_stride; out (most, 3, side, side).
// Launch: grid (most, 3), block 128. Places beyond the count are left as they are.
__global__ void __launch_bounds__(128) gather_peaks(
    const long long* __restrict__ key, const unsigned long long* __restrict__ count, const float* __restrict__ science,
    const float* __restrict__ reference, const float* __restrict__ difference, float* __restrict__ out, int ny, int nx,
    int side, long long first_image, long long reference_stride) {
  if (blockIdx.x >= *count) return;  // no barrier below
  const long long size = static_cast<long long>(ny) * nx, which = key[blockIdx.x] / size - first_image;
  const int pixel = static_cast<int>(key[blockIdx.x] % size), y0 = pixel / nx - side / 2, x0 = pixel % nx - side / 2;
  const float* image = blockIdx.y == 0 ? science + which * size
                                       : (blockIdx.y == 1 ? reference + which * reference_stride : difference + which * size);
  float* target = out + (blockIdx.x * 3ll + blockIdx.y) * side * side;
  for (int p = threadIdx.x; p < side * side; p += blockDim.x) {
    const int y = y0 + p / side, x = x0 + p % side;
    target[p] = y >= 0 && y < ny && x >= 0 && x < nx ? image[static_cast<long long>(y) * nx + x] : NAN_F;
  }
}

}  // extern "C"
#endif
