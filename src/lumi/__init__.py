"""Lumi-Lab: raw text in, a small language model out, every step an artifact that can be verified."""

__version__ = "0.1.0"
