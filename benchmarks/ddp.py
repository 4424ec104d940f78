"""The default example on two processes, beside the same training by hand: python benchmarks/ddp.py [--rounds 5].

By hand: DistributedDataParallel, fused AdamW, ``clip_grad_norm_``, a cosine schedule, the loss in TensorBoard every 20
steps, batches sliced from tensors in memory. Blocks of 200 steps, fresh processes by turns; the ratio is that of the
medians.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1] / "{{cookiecutter.proj_name}}"
PASSES, BLOCK, BLOCKS, SKIPPED = 10, 200, 6, 1  # passes over the set, of 20 steps each, make a block
sys.path.insert(0, str(PROJECT))


def by_hand(folder: Path) -> list[float]:
    """Train, and return the seconds of each block on rank 0."""
    import torch
    import torch.distributed as dist
    from custom.datasets.digits_dataset import DigitsDataset
    from custom.models.digits_model import DigitsModel
    from torch import nn
    from torch.nn.parallel import DistributedDataParallel
    from torch.utils.tensorboard import SummaryWriter

    dist.init_process_group("gloo")
    rank, times = dist.get_rank(), []
    torch.manual_seed(0)
    tensors = DigitsDataset(PROJECT / "data").tensors
    model = DistributedDataParallel(DigitsModel(width=16, dropout=0.2), gradient_as_bucket_view=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-2, fused=True)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, BLOCK * BLOCKS, eta_min=1e-5)
    writer = SummaryWriter(folder) if rank == 0 else None
    count, step = len(tensors["label"]), 0
    for _ in range(BLOCKS):
        began, total = time.perf_counter(), 0.0
        for rows in (rows for _ in range(PASSES) for rows in torch.randperm(count)[rank::2].split(32)):
            image, label = tensors["image"].index_select(0, rows), tensors["label"].index_select(0, rows)
            loss = nn.functional.cross_entropy(model(image), label)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
            total, step = total + loss.detach(), step + 1
            if step % 20 == 0:
                dist.all_reduce(total)
                if writer:
                    writer.add_scalar("loss", total / 40, step)
                total = 0.0
        times.append(time.perf_counter() - began)
    dist.barrier()
    dist.destroy_process_group()
    return times if rank == 0 else []


def by_the_engine(folder: Path) -> list[float]:
    """Train, and return the seconds of each block on rank 0."""
    from common.config import load_config

    config = load_config(
        ["--config", str(PROJECT / "configs/default.yaml"), "--gpu_ids", "-1", "--dir.expr_dir", str(folder)]
        + ["--dir.data_dir", str(PROJECT / "data"), "--progress.epoch", str(BLOCKS), "--progress.epoch_val", "0"]
        + ["--trainer.mode", "iter", "--progress.iters_per_epoch", str(BLOCK)]
        + ["--progress.epoch_save_checkpoint", "0", "--checkpoint.best_metric", "null"]
    )
    from custom.trainer import CustomIterTrainer

    from common.distributed import get_rank
    from common.launch import launch

    class Timed(CustomIterTrainer):
        def _train_epoch(self, epoch: int) -> None:
            began = time.perf_counter()
            super()._train_epoch(epoch)
            times.append(time.perf_counter() - began)

    times: list[float] = []
    with launch(config) as session:
        Timed(config, session).run()
        return times if get_rank() == 0 else []


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--as_rank", choices=["hand", "engine"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.as_rank:
        with tempfile.TemporaryDirectory() as folder:
            times = {"hand": by_hand, "engine": by_the_engine}[arguments.as_rank](Path(folder))
        if times:
            print(statistics.median(times[SKIPPED:]))
        return
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", __file__]
    found: dict[str, list[float]] = {"hand": [], "engine": []}
    for _ in range(arguments.rounds):
        for kind, times in found.items():
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            done = subprocess.run(
                [*command, "--as_rank", kind], env=environment, text=True, check=True, capture_output=True
            )
            times.append(float(done.stdout.split()[-1]))
    medians = {kind: statistics.median(times) for kind, times in found.items()}
    for kind, times in found.items():
        print(
            f"{kind}: median {medians[kind] / BLOCK * 1e3:.2f} ms a step of", *(f"{t / BLOCK * 1e3:.2f}" for t in times)
        )
    print(f"engine / hand = {medians['engine'] / medians['hand']:.3f}")


if __name__ == "__main__":
    main()
