"""Latents of whole data sets, as Parquet: made, resumed, verified, and read back normalised."""
