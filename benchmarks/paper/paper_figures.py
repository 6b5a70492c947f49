"""What the paper reports (arXiv 2508.09968), beside which ours are put."""

CATEGORIES = ("Single", "Two", "Counting", "Colors", "Position", "Attribution")

SANA_SPRINT = {
    "base": (0.2, 0.70, (1.00, 0.80, 0.64, 0.86, 0.41, 0.51)),
    "HyperNoise": (0.3, 0.75, (1.00, 0.88, 0.71, 0.85, 0.51, 0.55)),
    "prompt search": (95.0, 0.75, (0.99, 0.91, 0.82, 0.89, 0.36, 0.56)),
    "Best-of-50": (15.0, 0.79, (0.99, 0.92, 0.72, 0.91, 0.53, 0.65)),
    "ReNO-50": (30.0, 0.81, (0.99, 0.93, 0.74, 0.92, 0.60, 0.67)),
}
"""Table 1, SANA-Sprint 0.6B: method to (seconds a picture, GenEval mean, its categories)."""

GAINS = {
    "SD-Turbo": {"base": 0.49, "HyperNoise": 0.57, "ReNO-50": 0.63},
    "SANA-Sprint": {"base": 0.70, "HyperNoise": 0.75, "ReNO-50": 0.81},
    "FLUX.1-schnell": {"base": 0.68, "HyperNoise": 0.72, "ReNO-50": 0.76},
}
"""Table 1, GenEval means."""

STEPS = {
    "base": {1: 0.70, 2: 0.72, 4: 0.73, 8: 0.74, 16: 0.73, 32: 0.71},
    "HyperNoise": {1: 0.75, 2: 0.76, 4: 0.77, 8: 0.76, 16: 0.75, 32: 0.72},
    "fine-tuned": {1: 0.67, 2: 0.66, 4: 0.62},
}
"""Table 8, SANA-Sprint, by denoiser steps."""

RANKS = {"HyperNoise": {128: 0.75, 64: 0.75, 16: 0.71, 8: 0.70}, "fine-tuned": {128: 0.67, 64: 0.68, 16: 0.65, 8: 0.59}}
"""Tables 9 and 10, SANA-Sprint."""

DIVERSITY = {"base": (0.608, 0.780), "HyperNoise": (0.592, 0.825)}
"""Table 7: LPIPS (higher is more diverse) and DINOv2 similarity (lower is)."""
