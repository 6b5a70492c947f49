"""Noise hypernetworks: the kinds there are, their files, and how they sit in a denoiser."""
