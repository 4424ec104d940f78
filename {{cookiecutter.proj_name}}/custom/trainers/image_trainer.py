"""How a model of images is trained: its parts, built from the config, and what one step does."""

from __future__ import annotations

from common import (
    TRAINER_REGISTRY,
    Config,
    Session,
    Trainer,
    build_loader,
    build_loss,
    build_metric,
    build_model,
    build_optimizer,
    build_scheduler,
    find_room,
)
from custom.testers.image_tester import ImageTester

pictures = find_room("images.pictures")  # None in a project without that room: then nothing is drawn
labels = find_room("images.classes")


@TRAINER_REGISTRY.register("Image")
class ImageTrainer(Trainer):
    """Trains a model of images."""

    def __init__(self, config: Config, session: Session):
        on_gpu = session.device.type == "cuda"
        train_loader = build_loader(config, "train", on_gpu)
        if labels:  # the data may tell the names and the number of the classes
            config = labels.fit_to_data(config, train_loader)
        super().__init__(config, session)
        self.classes = (config.dataset.train or {}).get("classes")
        self.register_loader(train_loader, build_loader(config, "val", on_gpu))
        self.register_model(build_model(config.model))
        self.register_optimizer(build_optimizer(config.optim, self.parameter_groups(self.model)))
        self.register_scheduler(build_scheduler(config.optim, self.optimizer, self.schedule_length))
        self.loss = build_loss(config.loss).to(self.device)
        self.register_metric(build_metric(config.metric))
        if config.dataset.eval and (config.progress.epoch_eval or config.progress.init_eval):
            self.register_tester(ImageTester(config, session, self.model, config.progress.max_samples_eval))

    def train_step(self, epoch: int, iteration: int, data_dict: dict) -> tuple[dict, dict]:
        """Return the logits and the losses of a batch."""
        output_dict = {"logits": self.model(data_dict["image"])}
        loss = self.loss(output_dict, data_dict)
        return output_dict, {"loss": loss["sum"], **{name: loss[name] for name in loss["names"]}}

    def val_step(self, epoch: int, iteration: int, data_dict: dict) -> tuple[dict, dict]:
        """Return the logits and the losses of a batch."""
        return self.train_step(epoch, iteration, data_dict)

    def render_progress_imgs(self, data_dict: dict, output_dict: dict) -> dict:
        """Return pictures of the batch's first samples and of the model's predictions."""
        count = self.config.progress.max_samples_val
        return pictures.draw_samples(data_dict, output_dict, count, self.classes) if pictures else {}
