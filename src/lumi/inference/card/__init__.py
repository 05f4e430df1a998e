"""Decoding on a CUDA card: kernels in Triton, whole steps as graphs."""
