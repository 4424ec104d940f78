"""A small classifier, by whose features generated images are compared with real ones."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, RandomSampler

from common import MODEL_REGISTRY, build_model
from common.run.seed import random_state_kept


@MODEL_REGISTRY.register()
class FeatureModel(nn.Module):
    """Two convolutions, ``features`` numbers, and logits; for images of any size."""

    def __init__(self, classes: int = 10, features: int = 16, channels: int = 1):
        super().__init__()
        layers = [
            nn.Conv2d(channels, 16, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
        ]
        self.layers = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(512, features))
        self.head = nn.Sequential(nn.ReLU(), nn.Linear(features, classes))

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return features (batch, features) and logits (batch, classes) of images (batch, channels, H, W)."""
        features = self.layers(image)
        return features, self.head(features)


def train_feature_model(section: Any, loader: Any, steps: int = 400) -> nn.Module:
    """Return the model of a config section, trained on a loader's data set in a second or two.

    It is the same on all ranks and for any ``trainer.seed``, so that distances can be compared.
    """
    with random_state_kept(0):
        model = build_model(section, "model.features")
        optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
        sampler = RandomSampler(loader.dataset, replacement=True, num_samples=64 * steps)
        for batch in DataLoader(loader.dataset, 64, sampler=sampler, collate_fn=loader.collate_fn):
            optimizer.zero_grad()
            functional.cross_entropy(model(batch["image"])[1], batch["label"]).backward()
            optimizer.step()
    return model.requires_grad_(False)


def draw_and_compare(models: dict[str, nn.Module], data_dict: dict) -> dict:
    """Return a generated image for each real one, of the same class, and what the classifier sees in both."""
    generated = models["generator"](data_dict["label"])
    (features, logits), (real_features, _) = models["features"](generated), models["features"](data_dict["image"])
    return {"generated": generated, "logits": logits, "features": features, "real_features": real_features}
