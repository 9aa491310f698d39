"""An experiment: its folder and its settings. Loads no torch."""
