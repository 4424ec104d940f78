"""The import paths of the previous release, each with a warning that names the new one. To be removed next release."""

import sys
import warnings
from importlib.abc import Loader
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

# Old module = the new modules that its names are in.
_TABLE = """
    build=config.build errors=config.errors registry=config.registry schema=config.schema secrets=config.secrets
    device=run.strategy distributed=run.distributed elastic=run.launch launch=run.launch seed=run.seed
    signals=run.signals parallel=run.strategy,sharding shards=sharding.files shard_reader=sharding.reader
    checkpoint=state.checkpoint checkpoint_file=state.file continuity=state.resume_check experiment=state.experiment
    host_copy=state.checkpoint,run.strategy weights=state.file ema=optim.step updater=optim.step inputs=log.metric
    endpoints=diagnose.activations logger=log.console meters=log.metric monitor=log.curves progress=log.console
    selection=log.best debug=diagnose.gradients profiling=diagnose.profiling pictures=images.pictures
    datasets=data,data.dataset,images.reading,tools.download datasets.base_dataset=data,images.reading
    datasets.download=tools.download datasets.loader=data.loader datasets.sample_reader=data.dataset
    datasets.view=data.dataset losses=optim.loss,measures.dice_loss,measures.focal_loss
    losses.dice_loss=measures.dice_loss losses.focal_loss=measures.focal_loss losses.loss_set=optim.loss
    metrics=log.metric,measures.torch_metric metrics.base_metric=log.metric metrics.metric_set=log.metric
    metrics.torch_metric=measures.torch_metric metrics.confusion_matrix_metric=measures.confusion_matrix
    metrics.f1_metric=measures.f1 metrics.overlap_metric=measures.overlap metrics.psnr_metric=measures.psnr
    models=vision.model,vision.mlp,vision.resnet models.base_model=vision.model models.mlp=vision.mlp
    models.pretrained=vision.model models.resnet=vision.resnet
    transforms=vision.pipeline transforms.colour=vision.color transforms.geometry=vision.geometry
    transforms.pipeline=vision.pipeline engine.report=engine.parts
    engine.evaluate=engine.base_trainer engine.stop=engine.agenda
"""
MOVED = {f"common.{old}": new.split(",") for old, _, new in (pair.partition("=") for pair in _TABLE.split())}


class _MovedModule(ModuleType):
    """Looks each name up in the new modules."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        for new in MOVED[self.__name__]:
            if hasattr(module := _open(new, self.__name__), name):
                return getattr(module, name)
        raise AttributeError(f"module '{self.__name__}' has no attribute '{name}'")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        # Once it is imported, the module common.launch hides the function of that name in common.
        return getattr(self, self.__name__.rpartition(".")[2])(*args, **kwargs)


class _Finder(Loader):
    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        return ModuleSpec(fullname, self, is_package=True) if fullname in MOVED else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _MovedModule(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        old, new = module.__name__, MOVED[module.__name__]
        _open(new[0], old)  # so that a missing room is noticed at the import
        names = " or ".join(f"common.{name}" for name in new)
        # The import system's own frames do not count: the second frame is the file that imports.
        warnings.warn(f"{old} has moved to {names}", FutureWarning, stacklevel=2)


def _open(new: str, old: str) -> ModuleType:
    from common.config.registry import UserError, open_room

    try:
        return open_room(new, old)
    except UserError as error:
        raise ImportError(str(error)) from None


def follow_moved_modules() -> None:
    """Let the old import paths lead to the new modules."""
    sys.meta_path.insert(0, _Finder())
