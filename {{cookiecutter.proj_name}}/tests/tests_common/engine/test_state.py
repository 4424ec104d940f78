"""Each item of a checkpoint is needed: without it a run does not go on as if nothing had happened."""

import copy
import unittest

from common.config.errors import UserError
from common.run.seed import seed_everything
from common.state.checkpoint import Checkpointer, find_checkpoint
from common.state.file import read_checkpoint, write_durably
from tests import share_of
from tests.compare import differences
from tests.tests_common.engine import rich, test_cuts, toy

# The first validation is the best, and the next line of the log comes before the window closes.
WITHIN_A_WINDOW = ({"mode": "epoch", "accumulate": 3, "checkpoint": {"best_larger": True}}, {"iteration": 19})
WITH_A_SCALE = ({"mode": "iter", "precision": "fp16"}, {"iteration": 30})
IN_A_VALIDATION = (
    {"mode": "epoch", "progress": {"epoch_save_checkpoint": 1}, "checkpoint": {"keep_last": None}},
    {"val_step": 13},
)
ITEMS = {
    "window": (
        WITHIN_A_WINDOW,
        "model optimizer/state optimizer/param_groups scheduler ema/weights ema/updates "
        "updater/steps updater/grad_norm updater/gradients trainer/epoch trainer/iteration trainer/total_iterations "
        "meters/0/window meters/0/total selection/best selection/reference selection/stale monitor/sizes "
        "random/0/python random/0/numpy random/0/torch",
    ),
    "scale": (WITH_A_SCALE, "scaler"),
    "validation": (IN_A_VALIDATION, "trainer/due trainer/keep"),
}
# What no comparison of one run can show has a test of its own.
ELSEWHERE = {
    "continuity": "test_resume_check",
    "updater/moved": "test_non_finite",
    "updater/tried": "test_step",
    "updater/lost_in_a_row": "test_non_finite",
    "selection/metric": "test_best",
    "selection/top": "test_best",
    "selection/others": "test_trainer",
    "trainer/drop": "test_trainer",
    "monitor/step": "test_curves",
}


def parts_of(state):
    """Return what of a checkpoint a run goes on from: all but what it says of itself."""
    return {name: part for name, part in state.items() if name not in ("engine", "format", "config", "classes")}


def item(state, path):
    """Return the dict that holds an item, and the item's key in it."""
    *parents, key = [int(name) if name.isdigit() else name for name in path.split("/")]
    for name in parents:
        state = state[name]
    return state, key


class TestItems(test_cuts.TestCutsBase):
    """An item is put back to what it is in a run that has just begun; the rest of the run must show it."""

    def test_each(self):
        for name, (situation, paths) in ITEMS.items():
            self.root /= name
            set_up, cut = situation
            fresh, saved, whole = self.prepare(set_up, cut)
            with self.subTest("nothing is left out"):
                self.assertEqual(self.go_on(set_up, saved, whole, "all"), [])
            for path in share_of(paths.split(), 6):
                with self.subTest(path):
                    state = copy.deepcopy(saved)
                    (there, key), (initial, _) = item(state, path), item(fresh, path)
                    there[key] = initial[key]
                    self.assertNotEqual(self.go_on(set_up, state, whole, path.replace("/", "_")), [])

    def test_none_is_forgotten(self):
        listed = {path for _, paths in ITEMS.values() for path in paths.split()} | set(ELSEWHERE)
        _, saved, _ = self.prepare(*WITHIN_A_WINDOW)
        _, scaled, _ = self.prepare(*WITH_A_SCALE)
        for name, part in (parts_of(saved) | {"scaler": scaled["scaler"]}).items():
            whole = {name} if isinstance(part, dict) else set()
            inner = {f"{name}/{key}" for key in part}
            deeper = {
                f"{name}/{key}/{last}" for key, value in part.items() if isinstance(value, dict) for last in value
            }
            covered = whole & listed or inner <= listed or (deeper and deeper <= listed)
            self.assertTrue(covered, f"{name}: {inner - listed} {deeper - listed}")

    def test_a_part_that_is_missing(self):
        _, saved, _ = self.prepare(*WITHIN_A_WINDOW)
        for name in parts_of(saved):
            state = {key: value for key, value in saved.items() if key != name}
            with self.subTest(name), self.assertRaisesRegex(UserError, f"has no '{name}' to go on with"):
                self.go_on(WITHIN_A_WINDOW[0], state, None, f"without {name}")

    def prepare(self, set_up, cut):
        """Return the state of a run that has just begun, that of one that was cut, and the whole run's folder."""
        key = f"{set_up}"
        whole = self.root / f"whole {key}"
        if not whole.exists():
            self.train(whole.name, set_up)
            self.cut_once(f"cut {key}", set_up, cut)
        seed_everything(1)
        fresh = rich.TRAINERS[set_up["mode"]](rich.make_config(**set_up), toy.make_session(self))
        fresh.prepare()
        initial = {name: copy.deepcopy(part.state_dict()) for name, part in fresh.checkpointer.parts.items()}
        return initial, read_checkpoint(find_checkpoint(str(self.root / f"cut {key}"))), whole

    def go_on(self, set_up, state, whole, name):
        """Go on from a state in a copy of the cut run's folder, and return what differs in the end."""
        folder = self.copy_of(f"cut {set_up}", name)
        path = folder / "checkpoints" / "latest.pt"
        write_durably(state, path)
        trainer = rich.TRAINERS[set_up["mode"]](rich.make_config(**set_up), toy.make_session(self, path, folder))
        trainer.run()
        return list(differences(whole, folder))


class TestPartsAreLoadedInOrder(unittest.TestCase):
    """A file of another run is refused before anything of this one is changed."""

    def test_the_config_comes_first(self):
        trainer = rich.RichEpochTrainer(rich.make_config(), toy.make_session(self))
        trainer.prepare()
        self.assertEqual(next(iter(trainer.checkpointer.parts)), "continuity")
        self.assertIsInstance(trainer.checkpointer, Checkpointer)
