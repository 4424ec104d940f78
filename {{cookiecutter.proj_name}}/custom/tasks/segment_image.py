"""A picture → the class of each of its pixels."""

from __future__ import annotations

from typing import Any

import torch

from common.deploy.task import TASK_REGISTRY, Task, mask_picture, read_picture
from common.log.metric import predicted_classes


@TASK_REGISTRY.register()
class SegmentImage(Task):
    """Finds the class of each pixel of a picture."""

    tag = "image-segmentation"

    def read(self, source: Any) -> dict[str, Any]:
        """Return ``{"image": uint8 (3, H, W)}``."""
        return {"image": read_picture(source)}

    def answer(self, data_dict: dict[str, Any], output_dict: dict[str, Any]) -> dict[str, Any]:
        """Return each class's share of the picture, the mean probability of what is found, and the mask."""
        logits = output_dict["logits"].float()
        mask = predicted_classes(logits[None])[0]
        sure = logits.abs().sigmoid() if len(logits) == 1 else logits.softmax(dim=0).amax(dim=0)
        counts = torch.bincount(mask.flatten(), minlength=max(2, len(logits)))
        shares = dict(zip(self.about.class_names(len(counts)), (counts / mask.numel()).tolist(), strict=True))
        return {"shares": shares, "confidence": float(sure.mean()), "mask": mask_picture(mask)}

    def describe(self, answer: dict[str, Any]) -> str:
        """Return such as ``background 70.0 %, shape 30.0 %``."""
        return ", ".join(f"{name} {share:.1%}" for name, share in answer["shares"].items())
