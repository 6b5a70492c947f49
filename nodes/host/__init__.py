"""The bridge between ComfyUI and `hypernoise_core`: what travels between nodes, models, files. No nodes.

`adapter` and `reward` are the types HYPERNOISE and REWARD. `lora` and `head` are the kinds of HYPERNOISE; `kinds` loads
them, `residual` and `free_reading` apply them, by a `call` of the MODEL and `features` of its last layer. `identity` is
the core's name for a MODEL. `generator`, `differentiation` and `training_run` train and search on ComfyUI's models.
`diffusers_pipeline` makes MODEL, CLIP and VAE of what diffusers saved, and `generator_places` says where that may lie.
`folders`, `reward_files`, `prompts` and `packages` say what is installed.
`inputs` and `pictures` are shared by nodes.
"""
