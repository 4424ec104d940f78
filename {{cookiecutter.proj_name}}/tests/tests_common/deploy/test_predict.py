"""predict.py: folders, patterns and standard input; its tables and pictures; what cannot be read."""

import csv
import json
import subprocess
import sys
import unittest

from PIL import Image

from common.deploy.predictor import Predictor
from tests.tests_common.deploy.toy import PROJECT, DeployTest


class TestPredict(DeployTest):
    """The command."""

    def test_tables_and_console(self):
        folder, names = self.write_pictures(9)
        said, _ = self.call("predict", "--input", folder, "--output", self.folder / "out", "--batch_size", 4)
        expected = Predictor.from_checkpoint(self.checkpoint, "cpu")(sorted(folder.iterdir()), batch_size=4)
        lines = [json.loads(line) for line in (self.folder / "out/predictions.jsonl").read_text().splitlines()]
        inputs = [str(path) for path in sorted(folder.iterdir())]
        self.assertEqual(lines, [{"input": name, **answer} for name, answer in zip(inputs, expected, strict=True)])
        with (self.folder / "out/predictions.csv").open() as file:
            rows = list(csv.DictReader(file))
        self.assertEqual([row["class"] for row in rows], names)
        self.assertEqual(
            [float(row["probabilities.red"]) for row in rows], [a["probabilities"]["red"] for a in expected]
        )
        self.assertEqual([line.split(": ")[0] for line in said.splitlines()], inputs)
        self.assertIn(f"class {names[0]}, confidence 0.", said.splitlines()[0])

    def test_odd_files_are_named_and_passed_over(self):
        folder, _ = self.write_pictures(3)
        (folder / "0001.png").write_text("hello")
        (folder / "deeper").mkdir()
        (folder / "0000.png").rename(folder / "deeper/0000.png")
        (folder / ".hidden.png").write_text("hello")
        (folder / "cut.png").write_bytes((folder / "0002.png").read_bytes()[:100])
        for worker in ("0", "2"):
            said, errors = self.call("predict", "--input", folder, "--worker", worker, expect=1)
            self.assertEqual(len(said.splitlines()), 2)
            lines = errors.splitlines()
            self.assertIn(f"{folder}/0001.png: not a picture that can be read", lines)
            self.assertIn(f"{folder}/cut.png: ", errors)
            self.assertEqual((lines[-1], len(lines)), ("predict.py: 2 of 4 inputs could not be predicted", 3))

    def test_pictures_patterns_and_standard_input(self):
        folder, names = self.write_pictures(12)
        flags = ["--task.type", "ToyNameColor", "--task.draws", "true", "--output", folder / "out"]
        for _ in range(2):  # what the first one wrote is no input of the second
            said, _ = self.call("predict", "--input", folder, *flags)
            self.assertEqual(len(said.splitlines()), 12)
        line = json.loads((folder / "out/predictions.jsonl").read_text().splitlines()[3])
        self.assertEqual(line["mask"], "mask/0003.png.png")
        self.assertEqual(Image.open(folder / "out" / line["mask"]).size, (8, 8))
        said, _ = self.call("predict", "--input", folder / "000*.png")
        self.assertEqual(len(said.splitlines()), 10)
        data = (folder / "0002.png").read_bytes()
        done = subprocess.run(
            **self.command("predict", "--input", "-") | {"text": False}, input=data, capture_output=True
        )
        self.assertIn(f"-: class {names[2]}".encode(), done.stdout)

    def test_texts(self):
        said, _ = self.run_script("predict", "--task.type", "ToyContinue", "--input", "-", input="twelve signs")
        self.assertEqual(said, "-: text  and 12 letters\n")

    def test_mistakes_are_one_line(self):
        folder, _ = self.write_pictures(1)
        for flags, message in (
            (["--input", folder / "none"], "--input .*none: no such file"),
            (["--input", self.folder / "pictrues"], "no such file, did you mean 'pictures'"),
            (["--input", folder, "--bogus", "1"], "--bogus: unknown flag"),
            (["--input", folder, "--batch_size", "0"], "--batch_size: invalid positive value"),
            (["--input", folder, "--output", self.checkpoint], "--output .*final.pt: File exists"),
            (["--input", folder, "--task.type", "Nothing"], "unknown task 'Nothing'"),
            ([], "required: --input"),
        ):
            with self.subTest(message):
                _, errors = self.call("predict", *flags, expect=2)
                self.assertRegex(errors, rf"^\S+: error: [^\n]*{message}[^\n]*\n$")

    def test_a_reader_that_leaves_early(self):
        folder, _ = self.write_pictures(50)
        words = self.command("predict", "--input", folder, "--batch_size", 1)
        with subprocess.Popen(**words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            process.stdout.readline()
            process.stdout.close()
            errors = process.stderr.read()
        self.assertNotIn("Traceback", errors)

    def test_from_another_folder_without_data(self):
        folder, names = self.write_pictures(2)
        words = self.command("predict", "--input", folder)
        words |= {"cwd": self.folder, "env": {**words["env"], "PYTHONPATH": str(PROJECT)}}
        done = subprocess.run(**words, capture_output=True)
        self.assertIn(names[0], done.stdout, done.stderr)


class TestScripts(unittest.TestCase):
    """What holds of all scripts."""

    def test_help_needs_no_torch(self):
        for script in ("predict", "export", "serve"):
            code = f"import sys, {script}; sys.argv = ['x', '--help']\ntry: {script}.main()\n"
            code += "finally: print({'torch', 'fastapi', 'PIL'} & set(sys.modules))"
            done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True)
            self.assertIn("--model_pt FILE", done.stdout)
            self.assertEqual(done.stdout.splitlines()[-1], "set()")

    def test_training_imports_none_of_it(self):
        code = "import sys; from custom import build_trainer; "
        code += "print([name for name in sys.modules if 'deploy' in name])"
        done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True)
        self.assertEqual(done.stdout, "[]\n", done.stderr)
