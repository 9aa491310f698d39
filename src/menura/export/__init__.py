"""Voices for other programs: files of Applio and RVC WebUI, and ONNX graphs."""
