"""Generating latents by diffusion, and videos from them (paper Sec. 3.5, D.3)."""
