"""Decoding on a CPU: compiled by numba, run by a team of threads."""
