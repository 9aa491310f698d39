"""Measures of conversions."""
