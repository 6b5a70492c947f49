"""The command lines: a file that can be run is a command, the others are what commands share.

Commands: `__main__` (train), `generate`, `evaluate`, `convert`, `demo`, `embedded/`. Shared: arguments (`cli`,
`config`, `model`, `rewards`, `prompts`), a training run on disk (`run`, `resume`, `report`, `launch`, `memory`),
`pictures`. `evaluation/` is what `evaluate` does.
"""
