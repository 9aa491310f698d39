"""Native kernels of the networks, and what stands in for them."""
