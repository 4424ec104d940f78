"""PyTorch-Ignite."""

import ignite.distributed as idist
from ignite.engine import Engine, Events, create_supervised_evaluator
from ignite.handlers import LRScheduler
from ignite.handlers.tensorboard_logger import TensorboardLogger
from ignite.metrics import Accuracy, Loss, RunningAverage
from torch import nn, optim
from work import CLIP, LOG_EVERY, LR


def train(work, folder):
    """Train one epoch with a running average, the schedule and TensorBoard as handlers."""
    model = work.model()
    if work.processes > 1:
        idist.initialize("gloo")
        model = idist.auto_model(model)
    optimizer = optim.Adam(model.parameters(), LR)
    schedule = optim.lr_scheduler.CosineAnnealingLR(optimizer, work.steps)

    def update(engine, batch):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(batch["x"]), batch["y"])
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        return loss.item()

    trainer = Engine(update)
    trainer.add_event_handler(Events.ITERATION_STARTED, LRScheduler(schedule))
    RunningAverage(output_transform=lambda loss: loss).attach(trainer, "loss")
    with TensorboardLogger(log_dir=str(folder)) as logger:
        every = Events.ITERATION_COMPLETED(every=LOG_EVERY)
        logger.attach_output_handler(trainer, every, tag="train", metric_names=["loss"])
        logger.attach_opt_params_handler(trainer, every, optimizer=optimizer)
        trainer.run(work, max_epochs=1, epoch_length=work.steps)
    return model


def validate(work, folder):
    """Evaluate by its metrics."""
    metrics = {"loss": Loss(nn.functional.cross_entropy), "accuracy": Accuracy()}
    evaluator = create_supervised_evaluator(
        work.model(), metrics, prepare_batch=lambda batch, device, non_blocking: (batch["x"], batch["y"])
    )
    return evaluator.run(work, epoch_length=work.steps).metrics
