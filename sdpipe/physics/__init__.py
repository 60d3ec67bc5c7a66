"""The physics: kernels, quadrature, spectral densities, noise. NumPy only: no config, no disk, no Dask."""
