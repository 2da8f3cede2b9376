"""Measuring a model: metrics, controls of equal size, and the reconstruction protocol."""
