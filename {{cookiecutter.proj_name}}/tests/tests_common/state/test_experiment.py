"""The folder of a run."""

import os
import subprocess
import sys
import tempfile
import unittest
from dataclasses import replace
from pathlib import Path
from unittest import mock

import torch
from loguru import logger

from common.config.errors import UserError
from common.config.load import load_config
from common.state.experiment import back_up, describe_environment, look_at_space, open_experiment, open_results
from common.state.file import write_durably
from tests.tests_common.engine import toy


class ExperimentTest(unittest.TestCase):
    """Each test has a folder of experiments."""

    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.root = Path(temporary.name)
        config = toy.make_config(name="run")
        self.config = replace(config, dir=replace(config.dir, expr_dir=str(self.root)))

    def make(self, name="run", checkpoint=True):
        folder = self.root / name / "checkpoints"
        folder.mkdir(parents=True)
        if checkpoint:
            write_durably({}, folder / "latest.pt")
        return folder / "latest.pt"

    def open(self, **changes):
        progress = {key: changes.pop(key) for key in ("start_epoch",) if key in changes}
        config = replace(self.config, **changes)
        return open_experiment(replace(config, progress=replace(config.progress, **progress)))


class TestOpen(ExperimentTest):
    """New runs, and runs that go on."""

    def test_a_new_one(self):
        self.assertEqual(self.open(), (self.root / "run", None))
        self.assertTrue((self.root / "run").is_dir())

    def test_time_in_the_name(self):
        folder, _ = self.open(name="a_{time}")
        self.assertRegex(folder.name, r"^a_\d{8}-\d{6}$")

    def test_an_existing_one_is_refused(self):
        self.make()
        with self.assertRaisesRegex(UserError, "not overwritten: .*--resume .*--name.*{time}"):
            self.open()

    def test_what_failed_before_its_first_result_is_no_experiment(self):
        folder = self.root / "run"
        (folder / "event").mkdir(parents=True)
        for name in ("train.log", "cfg_backup.yaml", "environment.txt", "job.sh"):
            (folder / name).write_text("text")
        (folder / "metrics.jsonl").touch()
        self.assertEqual(self.open(), (folder, None))
        (folder / "metrics.jsonl").write_text("{}\n")
        with self.assertRaises(UserError):
            self.open()

    def test_goes_on_in_place_whatever_the_name(self):
        latest = self.make("old")
        for given in (latest, latest.parent, latest.parent.parent):
            self.assertEqual(self.open(resume=str(given)), (self.root / "old", latest))

    def test_fine_tuning_is_a_new_experiment(self):
        latest = self.make("old")
        self.assertEqual(self.open(resume=str(latest), start_epoch=0), (self.root / "run", latest))

    def test_an_older_format_gives_its_weights(self):
        latest = self.make("old", checkpoint=False)
        torch.save({"model": {}}, latest)
        self.assertEqual(self.open(resume=str(self.root / "old"), start_epoch=0), (self.root / "run", latest))
        with self.assertRaisesRegex(UserError, "nothing to go on from .latest.pt: it has format 0 .*start_epoch 0"):
            self.open(resume=str(self.root / "old"))
        config = replace(self.config, model_pt=str(self.root / "old"))
        self.assertEqual(open_results(config)[1], latest)

    def test_one_that_was_started_again_goes_on_by_itself(self):
        other = self.make("old")
        for name in ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT"):
            with mock.patch.dict(os.environ, {name: "1"}):
                self.assertEqual(self.open(name=name), (self.root / name, None))
                self.assertEqual(self.open(name=name, resume=str(other), start_epoch=0), (self.root / name, other))
                (self.root / name / "metrics.jsonl").write_text("{}\n")
                self.assertEqual(self.open(name=name), (self.root / name, None))
                latest = self.make(name + "x")
                self.assertEqual(self.open(name=name + "x", resume=str(other), start_epoch=0)[1], latest)
                newer = other.with_name("epoch_002.pt")
                write_durably({"newer": True}, newer, 1)
                self.assertEqual(self.open(name=name, resume=str(other)), (self.root / "old", newer))
                newer.unlink()
            with mock.patch.dict(os.environ, {name: "0"}), self.assertRaises(UserError):
                self.open(name=name)

    def test_a_name_with_the_time_cannot_be_found_again(self):
        for variables, resume in (({"TORCHELASTIC_MAX_RESTARTS": "3"}, None), ({}, "auto")):
            with mock.patch.dict(os.environ, variables), self.assertRaisesRegex(UserError, "needs a name that stays"):
                self.open(name="a_{time}", resume=resume)

    def test_auto(self):
        self.assertEqual(self.open(resume="auto"), (self.root / "run", None))
        latest = self.make()
        self.assertEqual(self.open(resume="auto"), (self.root / "run", latest))

    def test_nothing_to_go_on_from(self):
        self.make("old", checkpoint=False)
        for given, message in (
            (self.root / "old", "found no checkpoint in it"),
            (self.root / "none", "no such file or folder"),
        ):
            with self.assertRaisesRegex(UserError, message):
                self.open(resume=str(given))
        self.assertFalse((self.root / "run").exists())

    def test_results(self):
        latest = self.make("old")
        config = replace(self.config, model_pt=str(self.root / "old"))
        config = replace(config, dir=replace(config.dir, eval_dir=f"{self.root}/results/{{name}}"))
        self.assertEqual(open_results(config), (self.root / "results" / "run", latest))
        (self.root / "results" / "run" / "eval.log").write_text("an evaluation that failed")
        open_results(config)
        with self.assertRaisesRegex(UserError, "--model_pt: expected the checkpoint"):
            open_results(self.config)
        (self.root / "empty").mkdir()
        with self.assertRaisesRegex(UserError, "^--model_pt .*/empty: found no checkpoint"):
            open_results(replace(config, model_pt=str(self.root / "empty")))

    def test_results_go_by_run_and_checkpoint_and_never_over_others(self):
        latest = self.make("old")
        loose = self.root / "loose.pt"
        loose.write_bytes(latest.read_bytes())
        directories = replace(self.config.dir, eval_dir=f"{self.root}/results/{{run}}/{{checkpoint}}")
        for given, folder in ((latest, "old/latest"), (loose, f"{self.root.name}/loose")):
            config = replace(self.config, model_pt=str(given), dir=directories)
            found, _ = open_results(config)
            self.assertEqual(found, self.root / "results" / folder)
            (found / "summary.json").write_text("{}")
            with self.assertRaisesRegex(
                UserError, f"{folder} holds results and is not overwritten: take another --dir"
            ):
                open_results(config)


class TestBackUp(ExperimentTest):
    """What it takes to repeat a run."""

    def test_config_reads_back(self):
        back_up(self.config, self.root / "run", torch.device("cpu"))
        self.assertEqual(load_config(["--config", str(self.root / "run" / "cfg_backup.yaml")]), self.config)

    def test_a_run_that_went_on_is_repeated_from_its_start(self):
        back_up(replace(self.config, resume="somewhere"), self.root / "run", torch.device("cpu"))
        self.assertIsNone(load_config(["--config", str(self.root / "run" / "cfg_backup.yaml")]).resume)

    def test_job_with_a_difficult_name(self):
        folder = self.root / "a 'b' $(c)"
        back_up(self.config, folder, torch.device("cpu"))
        python = self.root / "bin" / "python"
        python.parent.mkdir()
        python.write_text('#!/bin/sh\nfor word in "$@"; do echo "$word"; done\n')
        python.chmod(0o755)
        environment = {**os.environ, "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}"}
        job = ["sh", str(folder / "job.sh"), "--more", "x y"]
        said = subprocess.run(job, env=environment, capture_output=True, text=True, cwd="/").stdout.splitlines()
        self.assertEqual(
            said[1:], ["--config", f"{folder}/cfg_backup.yaml", "--name", f"{folder.name}_replicate", "--more", "x y"]
        )

    def test_job_of_a_nested_name(self):
        back_up(self.config, self.root / "mlp" / "run1", torch.device("cpu"))
        self.assertIn("--name mlp/run1_replicate ", (self.root / "mlp" / "run1" / "job.sh").read_text())

    def test_a_folder_whose_name_the_locale_cannot_write(self):
        folder = self.root / "Größe"
        folder.mkdir()
        script = """
from pathlib import Path
import torch
from common import Config, add_log
from common.log.console import setup_logger
from common.state.experiment import back_up
back_up(Config(), Path("run"), torch.device("cpu"))
setup_logger(Path("run/train.log"))
add_log(f"in {Path.cwd()}")
"""
        environment = {**os.environ, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
        environment["PYTHONPATH"] = str(Path(__file__).parents[3])
        command = [sys.executable, "-c", script]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn(f"\ncd '{folder}' ||", (folder / "run" / "job.sh").read_text(encoding="utf-8"))
        self.assertIn("in /", (folder / "run" / "train.log").read_text(encoding="utf-8"))
        self.assertNotIn("Traceback", done.stderr)

    def test_secrets_are_for_the_owner(self):
        folder = self.root / "run"
        config = replace(self.config, model={"type": "MLP", "api_key": "geheim", "root": "s3://me:word@host/x"})
        back_up(config, folder, torch.device("cpu"))
        self.assertEqual((folder / "cfg_backup.yaml").stat().st_mode & 0o777, 0o600)
        self.assertEqual(load_config(["--config", str(folder / "cfg_backup.yaml")]).model, config.model)
        public = load_config(["--config", str(folder / "cfg_public.yaml")])
        self.assertEqual(public.model, {"type": "MLP", "api_key": "***", "root": "s3://***@host/x"})
        others = [path.read_text() for path in folder.iterdir() if path.name != "cfg_backup.yaml"]
        self.assertFalse([text for text in others if "geheim" in text or "me:word" in text])

    def test_without_secrets_there_is_one_copy(self):
        back_up(self.config, self.root / "run", torch.device("cpu"))
        self.assertFalse((self.root / "run" / "cfg_public.yaml").exists())

    def test_space(self):
        model = torch.nn.Linear(1000, 1000)
        lines = []
        handler = logger.add(lines.append, format="{level} {message}")
        self.addCleanup(logger.remove, handler)
        with mock.patch("shutil.disk_usage", lambda folder: mock.Mock(free=20 * 2**20)):
            look_at_space(self.root, [model], must_fit=False)
            self.assertRegex("".join(lines), "WARNING .*20 MiB are free on the disk, and a checkpoint may take 15 MiB")
            with self.assertRaisesRegex(UserError, "20 MiB are free.*checkpoint.on_error continue"):
                look_at_space(self.root, [model], must_fit=True)
        with mock.patch("shutil.disk_usage", lambda folder: mock.Mock(free=40 * 2**20)):
            look_at_space(self.root, [model], must_fit=True)
        self.assertEqual(len(lines), 1)

    def test_environment(self):
        text = describe_environment(torch.device("cpu"))
        self.assertIn(f"torch {torch.__version__.split('+')[0]}", text)
        self.assertIn("device cpu", text)
        self.assertRegex(text, r"git commit (none|[0-9a-f]{40})\n")
