"""From samples to F0: the protocol, a module for each method, and what is done to contours."""
