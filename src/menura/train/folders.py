"""What an experiment's folder holds. Loads no torch."""

BEGIN = "begin"
"""The weights that training begins with."""
SLICES = "slices"
FEATURES = "features"
LOGS = "logs"
VOICE = "voice"
"""The exported voice: weights, index, card."""
