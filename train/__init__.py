"""The commands. Every file that you can run is a command; the other files hold what commands share.

Commands: `__main__` (train), `generate`, `evaluate`, `convert`, `demo`, `embedded/`. Shared: arguments (`cli`,
`config`, `model`, `rewards`, `prompts`), a training run on disk (`run`, `resume`, `report`, `launch`, `memory`),
`pictures`. `evaluation/` does the work of `evaluate`.
"""
