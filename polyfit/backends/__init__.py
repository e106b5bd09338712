"""How an operation is carried out: kernels in Triton, chunks in plain PyTorch, loops that Inductor makes."""
