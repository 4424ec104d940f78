"""serve.py: right answers to each of many, clear answers to bad requests, an end that finishes what runs."""

import base64
import http.client
import io
import json
import random
import re
import signal
import socket
import subprocess
import threading
import time
import unittest
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import torch
from PIL import Image

from common.deploy.predictor import InputError, Predictor
from tests import FULL
from tests.tests_common.deploy.toy import DeployTest

MISSING = [name for name in ("fastapi", "uvicorn", "multipart") if find_spec(name) is None]
PNG = {"Content-Type": "image/png"}


class Server:
    """serve.py in a process of its own, at a free port."""

    def __init__(self, test, *flags):
        words = test.command("serve", "--port", 0, *flags)
        self.process = subprocess.Popen(**words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        test.addCleanup(self.close)
        line = self.process.stdout.readline()
        if not line:
            raise AssertionError(self.process.stderr.read())
        self.address = re.search(r"http://\S+:\d+", line)[0]
        self.port = int(self.address.rpartition(":")[2])

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()

    def end(self):
        """Ask it to end; return its exit code and what it said."""
        self.process.send_signal(signal.SIGTERM)
        said, errors = self.process.communicate(timeout=60)
        return self.process.returncode, said + errors

    def ask(self, body=b"", path="/predict", headers=PNG, method="POST"):
        """Return the status and the body of an answer; a dict if it is JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            data = answer.read()
            is_json = answer.getheader("content-type") == "application/json"
            return answer.status, json.loads(data) if is_json else data.decode()
        finally:
            connection.close()

    def send(self, data):
        """Send part of a request; return the connection."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        connection.sendall(data)
        return connection

    def memory(self):
        """Return the memory in use, in MiB (Linux)."""
        status = Path(f"/proc/{self.process.pid}/status")
        return int(re.search(r"VmRSS:\s+(\d+)", status.read_text())[1]) / 1024 if status.exists() else 0


def form(name, data):
    """Return the body of a form with one file, and its headers."""
    head = f'--xyz\r\nContent-Disposition: form-data; name="{name}"; filename="a"\r\n\r\n'.encode()
    return head + data + b"\r\n--xyz--\r\n", {"Content-Type": "multipart/form-data; boundary=xyz"}


def bomb():
    """Return a small PNG file of 400 megapixels."""
    file = io.BytesIO()
    Image.new("1", (20000, 20000)).save(file, "PNG")
    return file.getvalue()


@unittest.skipIf(MISSING, f"not installed: {' '.join(MISSING)}")
class TestServer(DeployTest):
    """Real requests to a real process."""

    def test_answers(self):
        folder, _ = self.write_pictures(3)
        paths = sorted(folder.iterdir())
        server = Server(self, "--task.type", "ToyNameColor", "--task.draws", "true")
        for path in paths:
            expected = Predictor.from_checkpoint(
                self.checkpoint, "cpu", {"task": {"type": "ToyNameColor", "draws": True}}
            )(path)
            expected["mask"] = f"data:image/png;base64,{base64.b64encode(expected['mask']).decode()}"
            self.assertEqual(server.ask(path.read_bytes()), (200, expected))
            body, headers = form("file", path.read_bytes())
            self.assertEqual(server.ask(body, headers=headers), (200, expected))
        status, health = server.ask(path="/health", method="GET")
        self.assertEqual((status, health["status"], health["classes"]), (200, "ok", ["red", "green", "blue"]))
        for page in ("/", "/docs", "/openapi.json"):
            status, text = server.ask(path=page, method="GET")
            self.assertEqual(status, 200)
            self.assertIsNone(re.search(r"(https?:)?//(?!127)\w", json.dumps(text)), page)
        self.assertEqual(server.end(), (0, ""))

    def test_bad_requests(self):
        folder, _ = self.write_pictures(1)
        good = (folder / "0000.png").read_bytes()
        server = Server(self, "--max_mb", 1, "--timeout", 1.5)
        body, headers = form("image", good)
        for request, expected in (
            ((b"hello",), (422, "not a picture that can be read")),
            ((good[:80],), (422, "truncated")),
            ((bomb(),), (422, "a picture of too many pixels")),
            ((b"",), (400, "the request holds no input")),
            ((b"x" * 3_000_000,), (413, "the request is larger than 1 MB")),
            ((body, "/predict", headers), (400, "expected a form with a field 'file' or 'text'")),
            ((b"junk", "/predict", headers), (400, "")),
        ):
            status, answer = server.ask(*request)
            self.assertEqual(status, expected[0], answer)
            self.assertIn(expected[1], answer["detail"])
        self.assertEqual(server.ask(path="/predict", method="GET")[0], 405)
        slow = server.send(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\nabc")
        self.assertIn(b"408", slow.recv(100))
        slow.close()
        server.send(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\nabc").close()
        self.assertEqual(server.ask(good)[0], 200)
        self.assertEqual(server.end(), (0, ""))

    def test_many_at_once(self):
        """2,000 requests from 32 clients with FULL=1, else a tenth; a fifth of them are bad."""
        count, clients = (2000, 32) if FULL else (200, 16)
        folder, _ = self.write_pictures(20)
        pictures = [path.read_bytes() for path in sorted(folder.iterdir())]
        bad = [b"hello", pictures[0][:80], bomb(), b"x" * 3_000_000, b"", None]
        server = Server(self, "--max_mb", 1, "--timeout", 2)
        expected = [server.ask(picture)[1] for picture in pictures]
        before = server.memory()

        def one(number):
            draw = random.Random(number)
            if draw.random() < 0.2:
                body = draw.choice(bad)
                if body is None:
                    with server.send(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\nabc") as slow:
                        return 400 <= int(slow.recv(100).split()[1]) < 500
                return 400 <= server.ask(body)[0] < 500
            row = draw.randrange(len(pictures))
            status, answer = server.ask(pictures[row])
            same = answer["class"] == expected[row]["class"]
            return status == 200 and same and abs(answer["confidence"] - expected[row]["confidence"]) < 1e-5

        with ThreadPoolExecutor(clients) as pool:
            right = list(pool.map(one, range(count)))
        self.assertEqual(right.count(False), 0)
        self.assertLess(server.memory(), before + 100)
        self.assertEqual(server.end(), (0, ""))

    def test_the_end_finishes_what_runs(self):
        server = Server(self, "--task.type", "ToySlow", "--task.seconds", 2)
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(server.ask, b"hello", headers={})
            self.wait_until_busy(server)
            self.assertEqual(server.end(), (0, ""))
        self.assertEqual(answer.result(), (200, {"text": "slow"}))

    def wait_until_busy(self, server):
        """Wait until a request is being answered."""
        while not server.ask(path="/health", method="GET")[1]["active"]:
            time.sleep(0.05)

    def test_too_many_and_too_long(self):
        server = Server(self, "--task.type", "ToySlow", "--task.seconds", 3, "--max_requests", 1, "--timeout", 1.5)
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(server.ask, b"hello", headers={})
            self.wait_until_busy(server)
            self.assertEqual(server.ask(b"hello", headers={})[0], 503)
            self.assertEqual(first.result(), (503, {"detail": "the prediction took longer than 1.5 seconds"}))

    def test_answers_do_not_wait_for_an_acknowledgment(self):
        from common.serve.server import listen

        listener = listen("127.0.0.1", 0)
        with listener, socket.create_connection(listener.getsockname()), listener.accept()[0] as connection:
            self.assertTrue(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

    def test_a_port_that_is_taken(self):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            _, errors = self.run_script("serve", "--port", taken.getsockname()[1], expect=2)
        self.assertRegex(errors, r"^-c: error: --host 127.0.0.1 --port \d+: Address already in use\n$")


class _Counting:
    """A predictor that notes the sizes of its batches, and waits in the first one."""

    def __init__(self):
        self.sizes, self.go = [], threading.Event()

    def predict(self, samples):
        self.sizes.append(len(samples))
        self.go.wait(60)
        values = [sample["image"].flatten()[0].item() for sample in samples]
        if values[0] < 0:
            raise MemoryError("no memory")
        return [InputError("odd") if value == 7 else {"value": value} for value in values]


@unittest.skipIf(MISSING, f"not installed: {' '.join(MISSING)}")
class TestBatcher(unittest.TestCase):
    """Which requests share a batch."""

    def start(self, size=4):
        from common.serve.server import Batcher

        predictor = _Counting()
        batcher = Batcher(predictor, size)
        self.addCleanup(batcher.close)
        self.addCleanup(predictor.go.set)
        return predictor, batcher

    def sample(self, value, numel=1):
        return {"image": torch.tensor([float(value)]).expand(numel)}

    def first_is_running(self, predictor, batcher, value=0):
        future = batcher.submit(self.sample(value))
        while not predictor.sizes:
            time.sleep(0.01)
        return future

    def test_what_meets_is_one_batch(self):
        predictor, batcher = self.start()
        futures = [self.first_is_running(predictor, batcher)] + [batcher.submit(self.sample(i)) for i in range(1, 10)]
        predictor.go.set()
        found = [future.exception(60) or future.result() for future in futures]
        self.assertEqual(
            [str(answer) if i == 7 else answer["value"] for i, answer in enumerate(found)],
            [0, 1, 2, 3, 4, 5, 6, "odd", 8, 9],
        )
        self.assertEqual(predictor.sizes, [1, 4, 4, 1])

    def test_large_ones_stay_apart(self):
        predictor, batcher = self.start()
        futures = [self.first_is_running(predictor, batcher)]
        futures += [batcher.submit(self.sample(i, numel)) for i, numel in enumerate([1, 1 << 23, 1 << 24, 1 << 25, 1])]
        predictor.go.set()
        for future in futures:
            future.result(60)
        self.assertEqual(predictor.sizes, [1, 2, 1, 1, 1])

    def test_an_error_and_a_client_that_has_gone(self):
        predictor, batcher = self.start()
        first = self.first_is_running(predictor, batcher, -1)
        gone, other = batcher.submit(self.sample(1)), batcher.submit(self.sample(2))
        gone.cancel()
        predictor.go.set()
        self.assertIsInstance(first.exception(60), MemoryError)
        self.assertEqual(other.result(60), {"value": 2.0})
        self.assertEqual(predictor.sizes, [1, 1])

    def test_the_end_answers_what_was_asked(self):
        predictor, batcher = self.start()
        futures = [self.first_is_running(predictor, batcher)] + [batcher.submit(self.sample(i)) for i in range(1, 7)]
        predictor.go.set()
        batcher.close()
        self.assertTrue(all(future.done() for future in futures))
        batcher._thread.join()
