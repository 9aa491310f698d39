"""From a folder of recordings to slices and their features."""
