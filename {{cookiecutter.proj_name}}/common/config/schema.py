"""Every key of a config file, with its meaning, its limits and its default.

``model``, ``dataset.*``, ``loss``, ``metric`` and ``optim.lr_scheduler`` are open sections: ``type`` names a registered
class (or one of torch's own), and the keys beside it are the arguments of that class.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, is_dataclass
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from math import inf
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from common.config.errors import UserError

Section = dict[str, Any]
Terms = dict[str, Section]


class Limit(NamedTuple):
    """What a value must meet beyond its type: in words, for messages, and as a check, which NaN must fail."""

    words: str
    fits: Callable[[Any], object] = lambda value: value is not None


def _is_path(text: str) -> bool:
    """Return whether file systems take a path, and leave room for what is written below it."""
    parts = os.fsencode(text).split(b"/")  # which fails if the locale has no such characters
    return b"\0" not in b"".join(parts) and max(map(len, parts)) <= 200 and sum(map(len, parts)) <= 2000


Positive = Annotated[int, Limit("a whole number from 1 to 10^9", lambda v: 1 <= v <= 10**9)]
NonNegative = Annotated[int, Limit("a whole number from 0 to 10^9", lambda v: 0 <= v <= 10**9)]
Processes = Annotated[int, Limit("a whole number from 1 to 1000", lambda v: 1 <= v <= 1000)]
Workers = Annotated[int, Limit("a whole number from 0 to 1000", lambda v: 0 <= v <= 1000)]
PositiveFloat = Annotated[float, Limit("a number above 0", lambda v: 0 < v < inf)]
NonNegativeFloat = Annotated[float, Limit("a number from 0", lambda v: 0 <= v < inf)]
Interval = Annotated[
    list[int], Limit("two iterations, such as [50, 60]", lambda v: len(v) == 2 and 0 <= v[0] < v[1] < 10**9)
]
Mode = Literal["reduce-overhead", "max-autotune"]
Compile = Annotated[bool | Mode, Limit("true, false, reduce-overhead or max-autotune")]
_GPUS = re.compile(r"-1|\d+(, ?\d+)*|\[\d+(, \d+)*\]")
_SOME_GPUS = Limit("-1, 0 or several as in 0,1, or null", lambda v: v is None or _GPUS.fullmatch(str(v)))
GpuIds = Annotated[int | list[int] | str | None, _SOME_GPUS]
_IN = f"in {sys.getfilesystemencoding()}, with parts of up to 200 bytes"
PathText = Annotated[str, Limit(f"text (in quotes), a path {_IN}", _is_path)]
_FOLDER_NAME = re.compile(r"[\w{](?!.*\.\.)[^\0-\x1f\\]*")
_FOLDER = Limit(f"text, a folder name such as mlp/run1 {_IN}", lambda v: _FOLDER_NAME.fullmatch(v) and _is_path(v))
_SHARE = Limit(
    "a share above 0.0 up to 1.0, or a number of samples from 1", lambda v: 0 < v <= 1 or (type(v) is int and v > 0)
)
Share = Annotated[int | float, _SHARE]
# What a data set's section may hold beside the arguments of its class and its transforms.
LoadBy = Literal["process", "thread"]
LOADER_KEYS = dict(
    batch_size=Positive,
    worker=Workers,
    loader=LoadBy,
    persistent_workers=bool,
    drop_last=bool,
    sample_rate=Share,
)


@dataclass(frozen=True)
class OptimizerConfig:
    """One optimizer: its schedule, its clipping and the average of the weights it trains."""

    type: str = "AdamW"
    """Optimizer: a name in torch.optim or a registered one."""
    lr: PositiveFloat = 1e-3
    """Learning rate. Never changed behind your back, whatever the number of processes."""
    lr_scaling: Literal["none", "linear"] = "none"
    """linear: multiply lr by the number of processes that load different batches (Goyal et al., 2017)."""
    weight_decay: NonNegativeFloat = 0.0
    """Weight decay, passed to the optimizer."""
    args: Section = field(default_factory=dict)
    """Further arguments of the optimizer, such as {betas: [0.9, 0.98]}."""
    lr_scheduler: Section | None = None
    """Schedule: {type: a name in torch.optim.lr_scheduler or a registered one, ...its arguments}. A length left out
    (T_max, total_iters, total_steps) is the whole run, planned anew if a resumed run is longer. In epochs (mode epoch)
    or optimizer steps (mode iter)."""
    warmup: NonNegative = 0
    """Linear warm-up before the schedule, in the schedule's unit (epochs or optimizer steps). 0: none."""
    warmup_factor: Annotated[float, Limit("a number above 0, up to 1", lambda v: 0 < v <= 1)] = 0.01
    """First learning rate of the warm-up, as a fraction of lr."""
    clip_gradients: NonNegativeFloat = 0.0
    """Gradient clipping limit. 0: no clipping."""
    clip_by: Literal["norm", "value"] = "norm"
    """What clip_gradients limits: the global norm of all gradients, or each value."""
    clip_warmup: int = -1
    """From this epoch on, clip_gradients_warmup is the limit. Negative: never."""
    clip_gradients_warmup: NonNegativeFloat = 0.0
    """Gradient clipping limit after clip_warmup epochs. 0: no clipping."""
    ema_decay: Annotated[float, Limit("a number from 0 to below 1", lambda v: 0 <= v < 1)] = 0.0
    """Decay of the moving average of the weights at each optimizer step; it is evaluated and saved as well. 0: none."""


@dataclass(frozen=True)
class OptimConfig(OptimizerConfig):
    """Optimizer, schedule, clipping."""

    named: dict[str, OptimizerConfig] = field(default_factory=dict)
    """Several optimizers: a section of the same keys for each name, as {generator: {...}, discriminator: {...}}."""


@dataclass(frozen=True)
class DebugConfig:
    """Looking for a fault."""

    debug_mode: bool = False
    """Find the operation behind a NaN (anomaly detection), check every gradient, dump the batch that failed. Slow."""
    print_all_grad: bool = False
    """Log mean, standard deviation, norm and largest value of each parameter's gradient whenever iter_loss logs."""
    profile: Interval | None = None
    """Profile these iterations, such as [50, 60], on rank 0: trace and table in profile/, shares of time in the log."""


@dataclass(frozen=True)
class DirConfig:
    """Where things are read and written."""

    expr_dir: PathText = "experiments"
    """Folder of all experiments; a run writes to <expr_dir>/<name>."""
    data_dir: PathText = "data"
    """Root folder of all data sets."""
    eval_dir: PathText = "results/{run}/{checkpoint}"
    """Where evaluate.py writes, never over other results; {run}, {checkpoint}, {name} and {time} are filled in."""


@dataclass(frozen=True)
class DistConfig:
    """Several processes."""

    nproc: Processes | None = None
    """Processes that train.py starts on this machine. null: one for each of several gpu_ids."""
    strategy: Literal["auto", "none", "dp", "ddp", "fsdp", "tp"] = "auto"
    """auto: ddp for several processes. dp: one process, several GPUs. fsdp: weights, gradients and optimizer state
    sharded by the model's blocks(). tp: layers split by the model's tensor_parallel_plan()."""
    tp_size: Positive | None = None
    """Processes that split the layers. null: all with tp, none with fsdp. A number with fsdp combines both."""
    shard_size: Positive | None = None
    """Processes that share one copy of the weights with fsdp, such as those of a machine. null: all."""
    cpu_offload: bool = False
    """Keep the weights and the optimizer state of fsdp in host memory."""
    sync_batchnorm: bool = False
    """Compute batch-norm statistics over the batches of all processes (GPUs only)."""
    backend: Literal["nccl", "gloo"] | None = None
    """Communication backend. null: nccl on CUDA, gloo elsewhere."""
    timeout: Positive = 600
    """Seconds after which a process that does not answer ends the others."""


@dataclass(frozen=True)
class ProgressConfig:
    """When things happen."""

    epoch: Positive = 100
    """Length of the run in epochs."""
    iters_per_epoch: Positive | None = None
    """Iterations per epoch, each of one batch. null: one pass over the training set."""
    iter_unit: Literal["iteration", "step"] = "iteration"
    """What the intervals iter_* count: iterations, or optimizer steps, each of trainer.accumulate iterations."""
    start_epoch: Annotated[int, Limit("-1 or 0", lambda v: v in (-1, 0))] = -1
    """A switch. With resume: -1 continues where the checkpoint stopped, in place; 0 fine-tunes from its weights."""
    epoch_loss: NonNegative = 1
    """Log the mean results every so many epochs. 0, here and for the other intervals: never."""
    iter_loss: NonNegative = 10
    """Log the results every so many iterations (or optimizer steps: iter_unit)."""
    epoch_val: NonNegative = 1
    """Validate every so many epochs."""
    iter_val: NonNegative = 0
    """Validate also every so many iterations (or optimizer steps: iter_unit)."""
    epoch_eval: NonNegative = 0
    """Evaluate on dataset.eval every so many epochs."""
    init_eval: bool = False
    """Evaluate once before training, not again when a run resumes."""
    max_samples_eval: Positive | None = None
    """Evaluate on at most so many samples during training. null: all."""
    save_progress: bool = False
    """Draw pictures of training batches."""
    epoch_save_progress: NonNegative = 1
    """Draw them every so many epochs, for the first batch of the epoch."""
    iter_save_progress: NonNegative = 0
    """Draw them also every so many iterations (or optimizer steps: iter_unit)."""
    save_progress_val: bool = True
    """Draw pictures of the first validation samples."""
    max_samples_val: Positive = 16
    """At most so many samples in a picture, and of each kind of guess in one of an evaluation; all are evaluated."""
    sample_save_eval: NonNegative = 50
    """Write the pictures of every so many samples of an evaluation, one file each. 0: none."""
    local_progress: bool = False
    """Write the pictures to files in progress/, too."""
    epoch_save_checkpoint: NonNegative = 10
    """Keep a checkpoint every so many epochs."""
    iter_save_checkpoint: NonNegative = 0
    """Keep a checkpoint also every so many iterations (or optimizer steps: iter_unit), named after the iterations."""
    save_time: NonNegativeFloat = 1800.0
    """Renew latest.pt after so many seconds. 0: never."""


@dataclass(frozen=True)
class CheckpointConfig:
    """Which checkpoints stay."""

    keep_last: Positive | None = None
    """How many of the numbered checkpoints to keep. null: all."""
    sharded: bool = False
    """Let each process save its part of a sharded model (fsdp, tp) to a folder beside the file: for large models."""
    on_error: Literal["continue", "stop"] = "continue"
    """If a checkpoint cannot be written, as on a full disk: log it and train on with the last good one, or stop."""
    allow_changed: bool = False
    """Resume although loss, training data, steps, user, or lr, weight_decay or args of an optimizer have changed. A
    changed model, schedule or type of optimizer needs start_epoch 0."""
    best_metric: str | list[str] | None = None
    """The validation result that selects best_<metric>.pt, or a list of several; early stopping and ReduceLROnPlateau
    watch the first."""
    best_larger: bool | None = None
    """Whether a larger best_metric is better. null: no for losses, and what a metric says of itself."""
    keep_best: Positive = 1
    """How many of the best to keep. With more than 1 also as best_<metric>_iter_NNNNNN.pt."""


@dataclass(frozen=True)
class DatasetConfig:
    """Data sets."""

    train: Section | None = None
    """Training set: {type: a registered data set, ...its arguments}. A set may also have batch_size, worker, loader,
    persistent_workers (true), drop_last (false), sample_rate (use this fraction, or this number, of the samples),
    transforms (a list, for each sample as it is read), batch_transforms (a list, for whole batches on the device),
    collate ({type: a registered function, such as Pad, ...}), which makes a batch of samples."""
    val: Section | None = None
    """Validation set. null: no validation."""
    eval: Section | None = None
    """Evaluation set. null: no evaluation."""
    bad_sample: Literal["raise", "replace"] = "raise"
    """If a sample cannot be read: end the run and name the sample, or read the next one instead."""
    bad_sample_limit: Positive = 100
    """How many samples may be replaced on a rank before the run ends."""


@dataclass(frozen=True)
class TrainerConfig:
    """How the loop runs."""

    type: str | None = None
    """Your trainer, and your tester, by the name that both are registered with. null: the only one there is."""
    mode: Literal["epoch", "iter"] = "epoch"
    """epoch: the schedule moves with every epoch; iter: with every optimizer step."""
    accumulate: Positive = 1
    """Iterations, each of one batch, whose gradients are averaged into one optimizer step."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """fp32, or mixed precision: bf16, or fp16 with loss scaling."""
    compile: Compile = False
    """Compile the model with torch.compile; its modes use CUDA graphs, and kernels that are chosen by trying them."""
    channels_last: bool = False
    """Keep the channels of images last in memory, which speeds up convolutions on GPUs, above all in bf16 and fp16."""
    activation_checkpointing: bool = False
    """Recompute the activations inside the model's blocks() in the backward pass, to save memory."""
    seed: Annotated[int, Limit("a whole number from 0 to 4294967295", lambda v: 0 <= v < 2**32)] = 0
    """Seed of Python, NumPy, torch, the order of the data and its augmentation."""
    non_finite: Literal["stop", "skip"] = "stop"
    """If a loss or gradient is not finite, its optimizer step is skipped: stop, or go on (at most 100 in a row)."""
    deterministic: bool = False
    """Use deterministic operations only: slower on a GPU, where two runs with one seed are then equal, too."""
    early_stop: NonNegative = 0
    """Stop after so many validations without a better checkpoint.best_metric. 0: never."""
    early_stop_delta: NonNegativeFloat = 0.0
    """By how much a result must be better to count, for early stopping."""


@dataclass(frozen=True)
class NoKeys:
    """Keys of your own, of which there are none: the package has no user.py."""


@cache
def find_user() -> type:
    """Return the dataclass ``User`` of ``user.py`` in your package, whatever its name; ``NoKeys`` if there is none.

    The file is run without the package around it, which would import torch.
    """
    for path in sorted(Path(__file__).parents[2].glob("*/user.py")):
        name = f"{path.parent.name}.user"
        spec: Any = spec_from_file_location(name, path)
        module = sys.modules[name] = module_from_spec(spec)
        spec.loader.exec_module(module)
        user = getattr(module, "User", None)
        if isinstance(user, type) and is_dataclass(user):
            return user
        raise UserError(f"{path}: expected a dataclass User, found {user}")
    return NoKeys


def _default_user() -> Any:
    """Return your own keys with their defaults; None if one has no default."""
    with suppress(TypeError):
        return find_user()()


@dataclass(frozen=True)
class Config:
    """A whole run."""

    name: Annotated[str, _FOLDER] = "default"
    """Name of the experiment; {time} is filled in. An existing one is never overwritten."""
    resume: PathText | None = None
    """A checkpoint, an experiment's folder, or auto: resume the experiment of this name if it has a checkpoint."""
    model_pt: PathText | None = None
    """For evaluate.py: the checkpoint whose weights are evaluated."""
    gpu_ids: GpuIds = None
    """null: the best device available (CUDA, MPS, CPU). -1: CPU. 0 or 0,1,2,3: these GPUs."""
    batch_size: Positive = 32
    """Samples per batch and process, unless the data set's section has a batch_size of its own."""
    worker: Workers = 0
    """Worker processes (or threads) that load data, for each data set. In-memory data is fastest with 0."""
    loader: LoadBy = "process"
    """What workers are. thread: threads of this process, for data sets that draw no random numbers themselves."""
    debug: DebugConfig = field(default_factory=DebugConfig)
    dir: DirConfig = field(default_factory=DirConfig)
    dist: DistConfig = field(default_factory=DistConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    progress: ProgressConfig = field(default_factory=ProgressConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    model: Section = field(default_factory=dict)
    """The model: {type: ..., ...its arguments}, or several by name: {generator: {type: ...}, discriminator: {...}}."""
    loss: Terms = field(default_factory=dict)
    """Loss terms by name: {ce: {type: ..., weight: 1.0, ...its arguments}}. null: leave out a term of the base file."""
    metric: Terms = field(default_factory=dict)
    """Metrics by name: {accuracy: {type: ..., ...its arguments}}. null: leave out a metric of the base file."""
    task: Section | None = None
    """For predict.py, export.py and serve.py: what the model is given and what it answers: {type: ..., ...}."""
    user: Any = field(default_factory=_default_user)
    """Your own keys: those of the dataclass User in user.py of your package."""
