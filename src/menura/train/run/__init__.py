"""A training run: steps, validation, logs, several devices."""
