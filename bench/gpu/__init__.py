"""The kernels on a GPU: `python -m bench.gpu`."""
