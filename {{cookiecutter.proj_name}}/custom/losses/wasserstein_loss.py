"""What a critic minimizes: how much more real it finds generated images, while its slope stays 1."""

from __future__ import annotations

import torch
from torch import nn

from common import LOSS_REGISTRY, UserError


@LOSS_REGISTRY.register()
class Wasserstein(nn.Module):
    """The mean score of generated images minus that of real ones: the negative of a distance between the two.

    Reads ``output_dict["critic"]``, a module, ``output_dict["generated"]`` and ``data_dict["image"]``, both
    (batch, channels, H, W), and ``data_dict["label"]``, the classes of both. Source: Arjovsky et al. (2017).
    """

    def forward(self, output_dict: dict, data_dict: dict) -> torch.Tensor:
        """Return a scalar."""
        critic, label = output_dict["critic"], data_dict["label"]
        return critic(output_dict["generated"], label).mean() - critic(data_dict["image"], label).mean()


@LOSS_REGISTRY.register()
class GradientPenalty(nn.Module):
    """How far the critic's slope is from 1, squared, at random places between real and generated images.

    Reads what ``Wasserstein`` reads. Source: Gulrajani et al. (2017), whose weight for it is 10.

    Raises:
        UserError: The critic is compiled.
    """

    def forward(self, output_dict: dict, data_dict: dict) -> torch.Tensor:
        """Return a scalar."""
        real, generated, critic = data_dict["image"], output_dict["generated"], output_dict["critic"]
        if hasattr(critic, "_orig_mod"):
            raise UserError("trainer.compile: a gradient penalty needs second derivatives, which torch.compile lacks")
        share = torch.rand(len(real), 1, 1, 1, device=real.device)
        between = torch.lerp(real, generated, share).requires_grad_()
        score = critic(between, data_dict["label"]).sum()
        slope = torch.autograd.grad(score, between, create_graph=True)[0]
        return (slope.flatten(1).norm(dim=1) - 1).square().mean()
