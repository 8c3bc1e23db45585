// Direct convolution with kernels of any size.
// Reference: astrid_gpu/ops/convolve.py.  CPU twin: convolve_numba.py.  Launch: astrid_gpu/backends/cuda/convolve.py.
#include "common.cuh"

#define TILE 32     // output pixels of a block along x and y
#define ROWS 4      // consecutive rows of a thread; a block is 32 x 8 threads
#define TAPS_Y 16   // taps at a time: the tile in shared memory does not grow with the kernel
#define TAPS_X 32

extern "C" {

// One block of (32, 8) threads = 32 x 32 pixels of one image: grid (ceil(nx / 32), ceil(ny / 32), n).
//
//   out[y, x] = sum_ji taps[j, i] bordered[y + j, x + i],    taps = the kernel, flipped
//   bordered[r, c] = images[rows[r], columns[c]], or 0 where an index is -1
//
// images, out (n, ny, nx); taps (n, ky, kx), shared by the stack if tap_stride is 0; rows (ny + ky - 1);
// columns (nx + kx - 1). Two reads of shared memory for four multiplications and additions. Sums in `real`.
__global__ void __launch_bounds__(256) convolve_direct(
    const real* __restrict__ images, const real* __restrict__ taps, const int* __restrict__ rows,
    const int* __restrict__ columns, real* __restrict__ out, int ny, int nx, int ky, int kx, long long tap_stride) {
  __shared__ real tile[TILE + TAPS_Y - 1][TILE + TAPS_X];  // one column to spare keeps rows on even banks
  __shared__ real weights[TAPS_Y][TAPS_X];
  const int tx = threadIdx.x, ty = threadIdx.y * ROWS, t = threadIdx.y * TILE + threadIdx.x;
  const int threads = blockDim.x * blockDim.y;
  const int x0 = blockIdx.x * TILE, y0 = blockIdx.y * TILE;
  const long long size = static_cast<long long>(ny) * nx;
  const real* image = images + blockIdx.z * size;
  const real* own_taps = taps + blockIdx.z * tap_stride;
  real sum[ROWS] = {0, 0, 0, 0};
  for (int j0 = 0; j0 < ky; j0 += TAPS_Y) {
    for (int i0 = 0; i0 < kx; i0 += TAPS_X) {
      const int hy = min(TAPS_Y, ky - j0), hx = min(TAPS_X, kx - i0);
      const int high = TILE + hy - 1, wide = TILE + hx - 1;
      __syncthreads();  // the last taps may still be at work on the tile
      for (int p = t; p < high * wide; p += threads) {
        const int r = p / wide, c = p - r * wide;
        const int at_y = y0 + j0 + r, at_x = x0 + i0 + c;
        int y = -1, x = -1;
        if (at_y < ny + ky - 1 && at_x < nx + kx - 1) {
          y = rows[at_y];
          x = columns[at_x];
        }
        tile[r][c] = y >= 0 && x >= 0 ? image[static_cast<long long>(y) * nx + x] : real(0);
      }
      for (int p = t; p < hy * hx; p += threads) {
        const int j = p / hx, i = p - j * hx;
        weights[j][i] = own_taps[static_cast<long long>(j0 + j) * kx + i0 + i];
      }
      __syncthreads();
      for (int i = 0; i < hx; ++i) {  // down a column the four values of a thread shift by one each tap
        real a = tile[ty][tx + i], b = tile[ty + 1][tx + i], c = tile[ty + 2][tx + i];
        for (int j = 0; j < hy; ++j) {
          const real d = tile[ty + 3 + j][tx + i], w = weights[j][i];
          sum[0] += w * a;
          sum[1] += w * b;
          sum[2] += w * c;
          sum[3] += w * d;
          a = b;
          b = c;
          c = d;
        }
      }
    }
  }
  const int x = x0 + tx;
  for (int r = 0; r < ROWS; ++r) {
    const int y = y0 + ty + r;
    if (x < nx && y < ny) out[blockIdx.z * size + static_cast<long long>(y) * nx + x] = sum[r];
  }
}
}
