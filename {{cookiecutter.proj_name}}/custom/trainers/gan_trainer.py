"""How a GAN is trained: in turns, several steps of the critic and then one of the generator."""

from __future__ import annotations

import torch

from common import TRAINER_REGISTRY, Config, Session, Trainer, build_loader, build_loss, build_metric, build_model
from common.images.pictures import draw_samples
from common.optim import build_optimizer, build_scheduler
from common.run.distributed import get_rank
from custom.metrics.frechet_metric import draw_and_compare
from custom.models.feature_model import train_feature_model
from custom.testers.gan_tester import GANTester

CRITIC_STEPS = 5  # for one of the generator; each has its share of the batch


@TRAINER_REGISTRY.register("GAN")
class GANTrainer(Trainer):
    """Trains a Wasserstein GAN, whose generator follows a critic that is always some steps ahead."""

    def __init__(self, config: Config, session: Session):
        super().__init__(config, session)
        loaders = [build_loader(config, split, session.device.type == "cuda") for split in ("train", "val")]
        self.register_loader(*loaders)
        for name in ("critic", "generator"):
            section, where = self.optim_config(name), f"optim.named.{name}"
            self.register_model(build_model(config.model.get(name, {}), f"model.{name}"), name)
            optimizer = build_optimizer(section, self.parameter_groups(self.models[name]), where)
            self.register_optimizer(optimizer, name)
            self.register_scheduler(build_scheduler(section, optimizer, self.schedule_length, where), name)
        self.register_model(train_feature_model(config.model.get("features", {}), loaders[0]), "features")
        self.loss = build_loss(config.loss).to(self.device)
        self.register_metric(build_metric(config.metric))
        if config.dataset.eval and (config.progress.epoch_eval or config.progress.init_eval):
            self.register_tester(GANTester(config, session, self.models, config.progress.max_samples_eval))

    def train_step(self, epoch: int, iteration: int, data_dict: dict) -> tuple[dict, dict]:
        """Make a step of the critic with each share of the batch, then one of the generator."""
        critic, generator = self.models["critic"], self.models["generator"]
        shares = zip(data_dict["image"].chunk(CRITIC_STEPS), data_dict["label"].chunk(CRITIC_STEPS), strict=True)
        for real, label in shares:
            generated = generator(label)
            loss = self.loss({"critic": critic, "generated": generated.detach()}, {"image": real, "label": label})
            self.step("critic", loss["sum"])
        self.step("generator", -critic(generated, label).mean())
        return {}, {name: loss[name] for name in loss["names"]}

    def before_val_epoch(self, epoch: int) -> None:
        """Take the same noise in each validation, so that its pictures can be compared."""
        torch.manual_seed(get_rank())

    def val_step(self, epoch: int, iteration: int, data_dict: dict) -> tuple[dict, dict]:
        """Return generated images, and what the classifier sees in these and in the real ones."""
        return draw_and_compare(self.models, data_dict), {}

    def render_progress_imgs(self, data_dict: dict, output_dict: dict) -> dict:
        """Return a page of generated images; in a red frame where the classifier sees another class."""
        shown = {"image": output_dict["generated"], "label": data_dict["label"]}
        return draw_samples(shown, output_dict, self.config.progress.max_samples_val)
