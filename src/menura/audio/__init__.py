"""Reading, writing, resampling and filtering recordings. Loads no torch."""
