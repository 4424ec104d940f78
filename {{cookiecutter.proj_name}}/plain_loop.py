"""The same training as a plain loop, from the engine's public parts alone: change any line of it.

It saves after each epoch, and resumes bit for bit: python plain_loop.py --config configs/default.yaml --resume auto
"""
# ruff: noqa: F401  (custom's modules are imported for what they register)

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import common
from common.config import command, load_config

if TYPE_CHECKING:
    from common import Config, Session


def train(config: Config, session: Session) -> None:
    """Train what a config describes, from the beginning or from the session's checkpoint."""
    from common.data.batches import open_pass
    from common.data.loader import on_device
    from common.engine.agenda import Counters
    from common.engine.base_trainer import evaluate, evaluating
    from common.log.curves import Curves
    from common.log.metric import Meters
    from common.optim.step import OptimizerStep
    from common.run.seed import RandomState
    from common.state.checkpoint import Checkpointer
    from common.state.file import load_matching, read_weights

    for key, known in {"mode": "epoch", "accumulate": 1, "precision": "fp32", "compile": False}.items():
        if (found := getattr(config.trainer, key)) != known:
            raise common.UserError(f"trainer.{key}: this loop has no lines for it, expected {known}, found {found}")
    device, strategy = session.device, session.strategy
    train_loader, val_loader = common.build_loader(config, "train"), common.build_loader(config, "val")
    model, transform = strategy.place(common.build_model(config.model), config), train_loader.transform_batch or dict
    optimizer = common.build_optimizer(config.optim, model.parameters())
    scheduler = common.build_scheduler(config.optim, optimizer, config.progress.epoch)
    step = OptimizerStep(optimizer, scheduler, config.optim, model, strategy=strategy)
    loss_set, metric = common.build_loss(config.loss).to(device), common.build_metric(config.metric)
    wrapped, counters, meters, curves = strategy.wrap(model), Counters(), Meters(), Curves(session.folder)
    parts = {"model": strategy.model_part(model), **step.parts(), "counters": counters, "monitor": curves}
    checkpointer = Checkpointer(session.folder / "checkpoints", parts | {"random": RandomState()}, strategy=strategy)
    if session.checkpoint and not session.goes_on:
        load_matching(model, read_weights(session.checkpoint), str(session.checkpoint), strategy)
    elif session.checkpoint:
        checkpointer.load(session.checkpoint)

    def val_step(iteration: int, data_dict: dict, size: int) -> tuple[dict, list]:
        output_dict = {"logits": model(data_dict["image"])}
        return output_dict, [({"loss": loss_set(output_dict, data_dict)["sum"]}, size)]

    with closing(curves), closing(checkpointer):
        for epoch in range(counters.epoch, config.progress.epoch):
            step.start_epoch(epoch)
            for data_dict in map(transform, on_device(open_pass(train_loader, epoch), device)):
                loss = loss_set({"logits": wrapped(data_dict["image"])}, data_dict)["sum"]
                step.backward(loss)
                step.step()
                meters.update({"loss": loss}, len(data_dict["image"]))
                counters.total_iterations += 1
            step.step_scheduler()
            counters.epoch = epoch + 1
            curves.add_scalars("train", meters.flush() | step.log_values(), epoch, counters.total_iterations)
            with evaluating([model]):
                summary_dict = evaluate(val_loader, device, val_step, metric) if val_loader else {}
            curves.add_scalars("val", summary_dict, epoch, counters.total_iterations)
            common.add_log(f"epoch {epoch} | val | {summary_dict}")
            checkpointer.save("latest")
        checkpointer.save("final")


if __name__ == "__main__":
    with command():
        config = load_config()
        from custom import datasets, losses, metrics, models

        with common.launch(config) as session:
            train(config, session)
