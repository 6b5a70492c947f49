"""Judges of finished images for the published benchmarks: rules, models on transformers, statistics. They handle no
files.

`geneval`, `detector` and `colors` are for GenEval, `vqa` and `phrases` for T2I-CompBench, `vqa` and `dpg` for
DPG-Bench. `distances` and `thumbnails` measure diversity. `statistics` compares two ways of making the same images.
Prompts, layouts and reports are in `train/evaluation/`; the embedded world's own benchmark is in
`hypernoise_core/embedded/`.
"""
