"""Secrets stay out of what others may read."""

import unittest

from common.config.secrets import find_secrets, hide, redact

CONFIG = {
    "name": "run",
    "dataset": {
        "train": {"api_token": "t0k", "max_tokens": 512, "root": "s3://user:pa55@host/data", "keys": ["k1", "k2"]}
    },
    "model": {"hidden_sizes": [64], "Password": "geheim", "kind": "mlp"},
}


class TestSecrets(unittest.TestCase):
    """Text under keys that say so, and credentials in addresses."""

    def test_redact(self):
        expected = {
            "name": "run",
            "dataset": {
                "train": {"api_token": "***", "max_tokens": 512, "root": "s3://***@host/data", "keys": ["***", "***"]}
            },
            "model": {"hidden_sizes": [64], "Password": "***", "kind": "mlp"},
        }
        self.assertEqual(redact(CONFIG), expected)

    def test_find(self):
        self.assertEqual(set(find_secrets(CONFIG)), {"t0k", "user:pa55", "k1", "k2", "geheim"})

    def test_hide(self):
        text = hide("cannot open s3://a:b@host with geheim", ["geheim"])
        self.assertEqual(text, "cannot open s3://***@host with ***")
