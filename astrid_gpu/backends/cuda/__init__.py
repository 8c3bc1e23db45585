"""CUDA launch code, one file a stem, shared by the CuPy backend and the CPU emulator of the tests."""
