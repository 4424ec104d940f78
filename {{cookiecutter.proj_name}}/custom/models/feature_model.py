"""A small classifier, by whose features generated images are compared with real ones."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, RandomSampler

from common import MODEL_REGISTRY, UserError, build_model
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


def train_feature_model(section: dict[str, Any], loader: Any, steps: int = 400) -> nn.Module:
    """Return the model of a config section, trained on up to 2,000 images of a loader's data set in a second or two.

    It is the same on all ranks and for any ``trainer.seed``, so that distances can be compared.
    """
    with random_state_kept(0):
        model = build_model(section, "model.features")
        sampler = RandomSampler(loader.dataset, num_samples=min(2000, len(loader.dataset)))
        reading = {"num_workers": loader.num_workers, "collate_fn": loader.collate_fn}
        transform = loader.transform_batch or (lambda batch: batch)
        batches = [*map(transform, DataLoader(loader.dataset, 64, sampler=sampler, **reading))]
        image, label = (torch.cat([batch[name] for batch in batches]) for name in ("image", "label"))
        if not image.is_floating_point() or image.min() < 0 or image.max() > 1:
            found = f"{image.dtype} from {image.min()} to {image.max()}"
            raise UserError(f"dataset.train: images must be numbers in [0, 1], as ToTensor makes them, found {found}")
        if label.max() >= (classes := model(image[:1])[1].shape[1]):
            raise UserError(f"model: made for {classes} classes, found the label {label.max()} in dataset.train")
        optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
        for _ in range(steps):
            rows = torch.randint(len(label), (64,))
            optimizer.zero_grad()
            functional.cross_entropy(model(image[rows])[1], label[rows]).backward()
            optimizer.step()
    return model.requires_grad_(False)
