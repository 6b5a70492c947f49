"""The work of `python -m train.evaluate`: the embedded benchmark's tables, and the published benchmarks on disk.

`embedded` compares on the embedded world. The other files handle the published benchmarks: prompts (`published`),
images in the official layouts (`pictures`, and one file per benchmark), scores (`judging`) and `report`; `run` goes
through them. The rules and models that judge are in `hypernoise_core.evaluation`, which knows no files.
"""
