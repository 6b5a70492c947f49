"""What `python -m train.evaluate` does: the embedded benchmark's tables, and the published benchmarks on disk.

`embedded` compares on the embedded world. The others make the published benchmarks: prompts (`published`), pictures in
the official layouts (`pictures`, and one file a benchmark), scores (`judging`), `report`; `run` goes through them. The
rules and models that judge are `hypernoise_core.evaluation`'s, which knows no files.
"""
