"""The detector for GenEval's rules: Mask2Former on COCO's 80 classes, from transformers."""

from collections.abc import Iterable

import numpy as np
import torch
from PIL import Image
from transformers import AutoImageProcessor, Mask2FormerForUniversalSegmentation
from transformers.models.mask2former.modeling_mask2former import Mask2FormerForUniversalSegmentationOutput

from ..settings import SettingError
from .geneval import PRESENCE_THRESHOLD, Detection
from .loading import load_part, load_whole

MASK2FORMER = "facebook/mask2former-swin-small-coco-instance"
"""The architecture and training data of GenEval's own detector, released by its authors in transformers instead of
mmdet."""

SHORT_SIDE, MULTIPLE = 800, 32
"""The short side of a resized image in pixels (mmdet's test size), and the multiple that the network's strides need."""

NAMES = {"mouse": "computer mouse", "remote": "tv remote", "keyboard": "computer keyboard"}
"""COCO's names where GenEval has others. `_name` handles dashes, case and older names."""

ALIASES = {
    "motorbike": "motorcycle",
    "aeroplane": "airplane",
    "sofa": "couch",
    "pottedplant": "potted plant",
    "diningtable": "dining table",
    "tvmonitor": "tv",
}


class Mask2FormerDetector:
    """Detects things in an image, with their masks. A thing's confidence is the confidence of its class times that of
    its mask, as in mmdet.

    Args:
        model: its labels are COCO's things.
        processor: the model's processor.
    """

    def __init__(self, model: Mask2FormerForUniversalSegmentation, processor):
        self.model, self.processor = model, processor
        self.labels = {int(index): _name(name) for index, name in model.config.id2label.items()}

    def check_classes(self, wanted: Iterable[str]) -> None:
        """
        Raises:
            ValueError: there is one that it does not know.
        """
        if unknown := sorted(set(wanted) - set(self.labels.values())):
            raise SettingError(
                "{detector} does not know {!r}, which the prompts ask for; it knows {}, …: give one that was trained "
                "on COCO",
                unknown[0],
                ", ".join(list(self.labels.values())[:5]),
            )

    @torch.no_grad()
    def detect(self, image: Image.Image) -> list[Detection]:
        """All things above GenEval's presence threshold, in an RGB image of any size."""
        pixels = self.processor(images=image, size=self._size(image), return_tensors="pt", do_resize=True).pixel_values
        outputs = self.model(pixel_values=pixels.to(self.model.device))
        on_cpu = (
            Mask2FormerForUniversalSegmentationOutput(  # transformers paints the masks on the CPU, wherever they are
                class_queries_logits=outputs.class_queries_logits.cpu(),
                masks_queries_logits=outputs.masks_queries_logits.cpu(),
            )
        )
        found = self.processor.post_process_instance_segmentation(
            on_cpu, threshold=PRESENCE_THRESHOLD, target_sizes=[image.size[::-1]], return_binary_maps=True
        )[0]
        if not found["segments_info"]:
            return []
        masks = found["segmentation"].numpy().astype(bool)
        return [
            Detection(self.labels[info["label_id"]], info["score"], _box(mask), mask)
            for info, mask in zip(found["segments_info"], masks, strict=True)
        ]

    @staticmethod
    def _size(image: Image.Image) -> dict[str, int]:
        scale = SHORT_SIDE / min(image.size)
        width, height = (max(1, round(side * scale / MULTIPLE)) * MULTIPLE for side in image.size)
        return {"height": height, "width": width}


def load_detector(source: str = MASK2FORMER, device: str = "cpu") -> Mask2FormerDetector:
    """
    Raises:
        ValueError: it is not at that hub id or folder.
    """
    processor = load_part(AutoImageProcessor, source, "detector")
    return Mask2FormerDetector(
        load_whole(Mask2FormerForUniversalSegmentation, source, "detector").to(device), processor
    )


def _name(label: str) -> str:
    label = label.lower().replace("-", " ").strip()
    label = ALIASES.get(label, label)
    return NAMES.get(label, label)


def _box(mask: np.ndarray) -> tuple[float, float, float, float]:
    """The smallest box around a mask. Its right and lower edges are one beyond the last pixel."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)
