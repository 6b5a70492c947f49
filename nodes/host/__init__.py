"""The bridge between ComfyUI and `hypernoise_core`: what travels between nodes, models, files. No nodes.

`adapter`, `reward` are the types HYPERNOISE and REWARD; `generator`, `differentiation`, `training_run` train and search
on ComfyUI's models; `residual` applies an adapter; `sana_sprint` is a family that ComfyUI lacks; `folders`,
`reward_files`, `prompts`, `packages` say what is installed; `inputs` and `pictures` are shared by nodes.
"""
