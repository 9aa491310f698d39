"""The machine under Menura: devices, memory, processes, signals, files."""
