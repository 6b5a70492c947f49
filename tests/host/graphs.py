"""Prompts in API format, as short functions over a dictionary of nodes."""

from itertools import count


class Graph:
    """An API-format prompt that is built node by node: `g.KSampler(model=…)` returns its first output, `[id, 0]`."""

    def __init__(self):
        self.nodes, self._ids = {}, count(1)

    def __getattr__(self, class_type):
        def add(**inputs):
            name = str(next(self._ids))
            self.nodes[name] = {"class_type": class_type, "inputs": inputs}
            return [name, 0]

        return add


def output(link, index: int):
    """Another output of the same node."""
    return [link[0], index]


def custom_sampling(g: Graph, model, positive, noise, latent, steps=1, sampler="euler", sigmas=None):
    """SamplerCustomAdvanced's latent."""
    sigmas = sigmas or g.BasicScheduler(model=model, scheduler="simple", steps=steps, denoise=1.0)
    return g.SamplerCustomAdvanced(
        noise=noise,
        guider=g.BasicGuider(model=model, conditioning=positive),
        sampler=g.KSamplerSelect(sampler_name=sampler),
        sigmas=sigmas,
        latent_image=latent,
    )


def ksampler(
    g: Graph, model, positive, negative, latent, seed=0, steps=1, sampler="euler", cfg=1.0, denoise=1.0,
    scheduler="simple",
):  # fmt: skip
    return g.KSampler(
        model=model, seed=seed, steps=steps, cfg=cfg, sampler_name=sampler, scheduler=scheduler,
        positive=positive, negative=negative, latent_image=latent, denoise=denoise,
    )  # fmt: skip
