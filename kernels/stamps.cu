// Cut windows of one odd size out of a stack.
// Reference: astrid_gpu/ops/stamps.py.  CPU twin: stamps_numba.py.  Launch: astrid_gpu/backends/cuda/stamps.py.
#include "common.cuh"

template <typename T>
__device__ __forceinline__ void gather(const T* images, const long long* where, T* out, int ny, int nx, int size, T fill,
                                       long long windows) {
  const long long cells = static_cast<long long>(size) * size, total = windows * cells;
  for (long long i = grid_first(); i < total; i += grid_stride()) {
    const long long k = i / cells;
    const int cell = static_cast<int>(i % cells);
    const long long y = where[windows + k] + cell / size - size / 2;
    const long long x = where[2 * windows + k] + cell % size - size / 2;
    const bool inside = y >= 0 && y < ny && x >= 0 && x < nx;
    out[i] = inside ? images[(where[k] * ny + y) * nx + x] : fill;
  }
}

extern "C" {

// Launch: blocks of 256, grid-stride over the m * size * size output pixels, neighbours in x on neighbouring threads.
// images (n, ny, nx); where (3, m): image, y, x of the middle pixels; out (m, size, size).
__global__ void __launch_bounds__(256) gather_stamps(const real* __restrict__ images, const long long* __restrict__ where,
                                                     real* __restrict__ out, int ny, int nx, int size, real fill,
                                                     long long windows) {
  gather(images, where, out, ny, nx, size, fill, windows);
}

// The same for masks.
__global__ void __launch_bounds__(256) gather_masks(const unsigned char* __restrict__ images,
                                                    const long long* __restrict__ where, unsigned char* __restrict__ out,
                                                    int ny, int nx, int size, unsigned char fill, long long windows) {
  gather(images, where, out, ny, nx, size, fill, windows);
}
}
