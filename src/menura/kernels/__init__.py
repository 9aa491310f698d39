"""Compiled CPU kernels, and the networks that run on them."""
