"""Judges of finished pictures for the published benchmarks: rules, models on transformers, statistics. No files.

`geneval` and `detector` and `colors` are GenEval's, `vqa` and `phrases` T2I-CompBench's, `vqa` and `dpg` DPG-Bench's;
`distances` and `thumbnails` measure diversity, `statistics` compares two ways of making the same pictures. Prompts,
layouts and reports are `train/evaluation/`'s; the embedded world's own benchmark is in `hypernoise_core/embedded/`.
"""
