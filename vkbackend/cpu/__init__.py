"""The CPU path on ggml: a step as ggml graphs, with kernels of our own for what is not a matrix product."""
