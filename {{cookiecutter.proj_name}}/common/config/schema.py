"""Every key of a config file, with its meaning and default.

The dataclasses are frozen: a loaded config is never changed.

``model``, ``dataset.*``, ``loss``, ``metric`` and ``optim.lr_scheduler`` are open sections: their ``type`` names a
registered class (or one of torch's own) and the keys beside it are that class's arguments.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Section = dict[str, Any]


@dataclass(frozen=True)
class OptimizerConfig:
    """One optimizer, its schedule, its clipping and the average of the weights it trains."""

    type: str = "AdamW"
    """Optimizer: a name in torch.optim or a registered one."""
    lr: float = 1e-3
    """Learning rate. Never changed behind your back, whatever the number of processes."""
    lr_scaling: Literal["none", "linear"] = "none"
    """linear: lr is for one process; it is multiplied by those that divide the batches (Goyal et al., 2017)."""
    weight_decay: float = 0.0
    """Weight decay, handed to the optimizer."""
    args: Section = field(default_factory=dict)
    """Further arguments of the optimizer, such as {betas: [0.9, 0.98]}."""
    lr_scheduler: Section | None = None
    """Schedule: {type: a name in torch.optim.lr_scheduler or a registered one, ...its arguments}. A length left out
    (T_max, total_iters, total_steps) is the whole run. In epochs (mode epoch) or optimizer steps (mode iter)."""
    warmup: int = 0
    """Linear warm-up in front of the schedule, in the schedule's unit (epochs or optimizer steps). 0: none."""
    warmup_factor: float = 0.01
    """The first learning rate of the warm-up, as a share of lr."""
    clip_gradients: float = 0.0
    """Gradient clipping limit. 0: no clipping."""
    clip_by: Literal["norm", "value"] = "norm"
    """What clip_gradients limits: the global norm of all gradients, or each value."""
    clip_warmup: int = -1
    """From this epoch on, clip_gradients_warmup is the limit. Negative: never."""
    clip_gradients_warmup: float = 0.0
    """Gradient clipping limit after clip_warmup epochs. 0: no clipping."""
    ema_decay: float = 0.0
    """Decay rate of the exponential moving average of the weights, evaluated and saved beside them. 0: none."""


@dataclass(frozen=True)
class OptimConfig(OptimizerConfig):
    """The optimizer, or with `named` several of them."""

    named: dict[str, OptimizerConfig] = field(default_factory=dict)
    """Several optimizers: a section of the same keys for each name, as {generator: {...}, discriminator: {...}}."""


@dataclass(frozen=True)
class DebugConfig:
    """Looking for a fault."""

    debug_mode: bool = False
    """Find the operation behind a NaN (anomaly detection), check every gradient, dump the batch that failed. Slow."""
    print_all_grad: bool = False
    """Log mean, spread, norm and largest value of each parameter's gradient with every logged iteration."""
    profile: list[int] | None = None
    """Watch these iterations of the run, such as [50, 60], with torch's profiler: profile/ then has a trace and a table
    of operations, the log the shares of data, forward, backward, optimizer and engine. On rank 0."""


@dataclass(frozen=True)
class DirConfig:
    """Where things are read and written."""

    expr_dir: str = "experiments"
    """Folder of all experiments; a run writes to <expr_dir>/<name>."""
    data_dir: str = "data"
    """The one root of all data sets."""
    eval_dir: str = "results/{name}"
    """Where evaluate.py writes; {name} and {time} are filled in."""


@dataclass(frozen=True)
class DistConfig:
    """Several processes."""

    nproc: int | None = None
    """Processes that train.py starts on this machine by itself. null: one for each of several gpu_ids."""
    strategy: Literal["auto", "none", "dp", "ddp", "fsdp", "tp"] = "auto"
    """auto: ddp for several processes. dp: one process, several GPUs. fsdp: weights, gradients and optimizer sharded,
    by the model's blocks(). tp: layers divided by the model's tensor_parallel_plan()."""
    tp_size: int | None = None
    """Processes that divide the layers between them. null: all for tp, none for fsdp, which crosses both otherwise."""
    shard_size: int | None = None
    """Processes that share one copy of the weights in fsdp, such as those of a machine. null: all."""
    cpu_offload: bool = False
    """Keep the weights and the optimizer of fsdp in the memory of the host."""
    sync_batchnorm: bool = False
    """Batch-norm's statistics over the batches of all processes (GPUs only)."""
    backend: Literal["nccl", "gloo"] | None = None
    """Communication backend. null: nccl on CUDA, gloo elsewhere."""
    timeout: int = 600
    """Seconds after which a silent process ends the others."""


@dataclass(frozen=True)
class ProgressConfig:
    """When things happen. An epoch is one pass over the training set, or iters_per_epoch iterations. 0: never."""

    epoch: int = 100
    """Length of the run in epochs."""
    iters_per_epoch: int | None = None
    """Iterations an epoch. null: one pass over the training set."""
    start_epoch: int = -1
    """With resume: -1 goes on where the checkpoint stopped, in place; 0 fine-tunes from its weights alone."""
    epoch_loss: int = 1
    """Log the mean losses every so many epochs."""
    iter_loss: int = 10
    """Log the losses every so many iterations."""
    epoch_val: int = 1
    """Validate every so many epochs."""
    iter_val: int = 0
    """Validate also every so many iterations."""
    epoch_eval: int = 0
    """Evaluate on dataset.eval every so many epochs."""
    init_eval: bool = False
    """Evaluate once before training."""
    max_samples_eval: int | None = None
    """Evaluate during training on at most so many samples. null: all."""
    save_progress: bool = False
    """Draw pictures of training batches."""
    epoch_save_progress: int = 1
    """Draw them every so many epochs, for the epoch's first batch."""
    save_progress_val: bool = True
    """Draw pictures of the first validation batch."""
    max_samples_val: int = 16
    """At most so many samples in a picture."""
    sample_save_eval: int = 50
    """Write the pictures of every so many samples of an evaluation, each to a file of its own. 0: none."""
    local_progress: bool = False
    """Write the pictures to progress/ as files, too."""
    epoch_save_checkpoint: int = 10
    """Keep a checkpoint every so many epochs."""
    iter_save_checkpoint: int = 0
    """Keep a checkpoint also every so many iterations."""
    save_time: float = 1800.0
    """Renew latest.pt after so many seconds."""


@dataclass(frozen=True)
class CheckpointConfig:
    """Which checkpoints stay."""

    keep_last: int | None = None
    """How many of the numbered checkpoints to keep. null: all."""
    sharded: bool = False
    """Let each process write what it holds of a sharded model (fsdp, tp) to a folder beside the file: for big ones."""
    on_error: Literal["continue", "stop"] = "continue"
    """Where a checkpoint cannot be written, as on a full disk: log it and train on with the last good one, or stop."""
    allow_changed: bool = False
    """Go on from a checkpoint although the config now trains another model, on other data or in other steps."""
    best_metric: str | None = None
    """The validation result that selects best_<metric>.pt, and that early stopping and ReduceLROnPlateau watch."""
    best_larger: bool = True
    """Whether a larger best_metric is better."""
    keep_best: int = 1
    """How many of the best to keep. With more than 1 also as best_<metric>_iter_NNNNNN.pt."""


@dataclass(frozen=True)
class DatasetConfig:
    """The data sets: {type: a registered data set, ...its arguments}. These keys may stand there too: transforms (list,
    for each sample where it is read), batch_transforms (list, for whole batches on the device), sample_rate (use this
    share, or this number, of the samples), batch_size, worker, persistent_workers (true) and drop_last (false)."""

    train: Section | None = None
    """Training set."""
    val: Section | None = None
    """Validation set. null: no validation."""
    eval: Section | None = None
    """Evaluation set. null: no evaluation."""
    bad_sample: Literal["raise", "replace"] = "raise"
    """What happens at a sample that cannot be read: the run ends and names it, or the next one is read instead."""
    bad_sample_limit: int = 100
    """How many samples may be replaced on a rank before the run ends."""


@dataclass(frozen=True)
class TrainerConfig:
    """How the loop runs."""

    mode: Literal["epoch", "iter"] = "epoch"
    """epoch: the schedule moves with every epoch; iter: with every optimizer step."""
    accumulate: int = 1
    """Batches whose gradients are averaged into one optimizer step."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """fp32, or mixed precision: bf16, or fp16 with loss scaling."""
    compile: bool | Literal["reduce-overhead", "max-autotune"] = False
    """Compile the model with torch.compile; in its mode reduce-overhead as CUDA graphs on a GPU, in max-autotune with
    kernels that are chosen by trying them."""
    channels_last: bool = False
    """Keep the channels of images last in memory, which GPUs convolve faster, most of all in bf16 and fp16."""
    activation_checkpointing: bool = False
    """Recompute what is inside the model's blocks() in the backward pass, instead of keeping it in memory."""
    seed: int = 0
    """Seed of Python, NumPy, torch, the order of the data and its augmentation."""
    non_finite: Literal["stop", "skip"] = "stop"
    """What happens at a loss or gradient that is not finite. Its step is never made; the run ends, or goes on with the
    next batch, unless 100 steps in a row are lost."""
    deterministic: bool = False
    """Use deterministic operations only. Slower on a GPU; two runs with one seed are then equal there, too."""
    early_stop: int = 0
    """Stop after so many validations without a better checkpoint.best_metric. 0: never."""
    early_stop_delta: float = 0.0
    """How much better counts as better, for early stopping."""


@dataclass(frozen=True)
class Config:
    """A whole run."""

    name: str = "default"
    """Name of the experiment; {time} is filled in. An existing one is never overwritten."""
    resume: str | None = None
    """A checkpoint, an experiment's folder, or auto: go on with the experiment of this name if it has a checkpoint."""
    model_pt: str | None = None
    """For evaluate.py: the checkpoint whose weights are evaluated."""
    gpu_ids: int | list[int] | str | None = None
    """null: the best device at hand (CUDA, MPS, CPU). -1: CPU. 0 or 0,1,2,3: these GPUs."""
    batch_size: int = 32
    """Samples a batch and process; a data set's own batch_size comes first."""
    worker: int = 0
    """Worker processes that load data, for each data set. In-memory data is fastest with 0."""
    debug: DebugConfig = field(default_factory=DebugConfig)
    """Looking for a fault."""
    dir: DirConfig = field(default_factory=DirConfig)
    """Where things are read and written."""
    dist: DistConfig = field(default_factory=DistConfig)
    """Several processes."""
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    """How the loop runs."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """Optimizer, schedule, clipping."""
    progress: ProgressConfig = field(default_factory=ProgressConfig)
    """When things happen."""
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    """Which checkpoints stay."""
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    """Data sets."""
    model: Section = field(default_factory=dict)
    """The model: {type: ..., ...its arguments}, or several by name: {generator: {type: ...}, discriminator: {...}}."""
    loss: Section = field(default_factory=dict)
    """Loss terms by name: {ce: {type: ..., weight: 1.0, ...its arguments}}."""
    metric: Section = field(default_factory=dict)
    """Metrics by name: {accuracy: {type: ..., ...its arguments}}."""
