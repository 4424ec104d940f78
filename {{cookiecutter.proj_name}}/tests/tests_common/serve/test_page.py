"""The page of serve.py in a real browser: Debian's package chromium, or another Chromium that is installed."""

import json
import unittest
from importlib.util import find_spec

from tests.browser import CHROMIUM, Browser
from tests.tests_common.deploy.toy import DeployTest
from tests.tests_common.serve.test_server import MISSING, Server

DONE = "document.getElementById('result').getAttribute('aria-busy') === 'false'"
TEXT = "document.querySelector('main').innerText"


@unittest.skipIf(MISSING, f"not installed: {' '.join(MISSING)}")
@unittest.skipIf(CHROMIUM is None, "not installed: chromium")
class TestPage(DeployTest):
    """What a person sees and does."""

    def browse(self, server, **keys):
        browser = Browser(**keys)
        self.addCleanup(browser.__exit__)
        browser.open(f"{server.address}/")
        return browser

    def assert_stays(self, server, browser):
        """Check that the page has asked nobody but the server, and is no wider than the window."""
        asked = [url for url in browser.requests if not url.startswith((f"{server.address}/", "data:", "blob:"))]
        self.assertEqual([url for url in asked if url != "about:blank"], [])
        self.assertLessEqual(browser.run("document.documentElement.scrollWidth - window.innerWidth"), 0)

    def test_pictures_at_both_widths(self):
        folder, names = self.write_pictures(3)
        (folder / "notes.txt").write_text("hello")
        server = Server(self, "--task.type", "ToyNameColor", "--task.draws", "true")
        for size in ({"width": 1280}, {"width": 390, "height": 844}):
            browser = self.browse(server, **size)
            self.assertIn("Names the color of a picture.", browser.run(TEXT))
            for number in (0, 1):
                browser.choose(folder / f"{number:04d}.png")
                found = browser.wait(f"{DONE} && document.querySelector('.class')?.innerText")
                self.assertEqual(found, names[number])
                self.assertRegex(browser.run(TEXT), r"\d % sure")
                browser.wait("document.getElementById('mask').naturalWidth === 8")
            browser.choose(folder / "notes.txt")
            browser.wait("!document.getElementById('error').hidden")
            said = browser.run("document.querySelector('[role=alert]').innerText")
            self.assertEqual(said, "notes.txt: not a picture that can be read")
            browser.choose(folder / "0002.png")
            self.assertEqual(browser.wait(f"{DONE} && document.querySelector('.class')?.innerText"), names[2])
            self.assertTrue(browser.run("document.getElementById('error').hidden"))
            self.assert_stays(server, browser)
        self.assertEqual(server.end(), (0, ""))
        browser.choose(folder / "0002.png")
        browser.wait("!document.getElementById('error').hidden")
        self.assertIn("The server does not answer", browser.run(TEXT))

    def test_too_large_is_told_before_it_is_sent(self):
        server = Server(self, "--max_mb", 1)
        (self.folder / "large.png").write_bytes(b"x" * 2_000_000)
        browser = self.browse(server)
        browser.choose(self.folder / "large.png")
        browser.wait("!document.getElementById('error').hidden")
        self.assertIn("large.png: larger than 1 MB", browser.run(TEXT))
        self.assertNotIn(f"{server.address}/predict", browser.requests)

    def test_by_keyboard(self):
        server = Server(self)
        browser = self.browse(server)
        reached = []
        for _ in range(2):
            browser.press("Tab", code=9)
            reached.append(
                browser.run(
                    "[document.activeElement.id || document.activeElement.textContent, "
                    "getComputedStyle(document.activeElement.closest('.drop, a')).outlineStyle]"
                )
            )
        self.assertEqual(reached, [["file", "solid"], ["Use it from a program", "solid"]])
        browser.press("Enter", code=13)
        browser.wait("location.pathname === '/docs' && document.readyState === 'complete'")
        self.assertIn(f"{server.address}/predict", browser.run("document.body.innerText"))
        self.assert_stays(server, browser)

    def test_text_by_keyboard(self):
        server = Server(self, "--task.type", "ToyContinue")
        browser = self.browse(server, width=390, height=844)
        browser.press("Tab", code=9)
        self.assertEqual(browser.run("document.activeElement.id"), "words")
        browser.call("Input.insertText", text="<b>Twelve</b>")
        browser.press("Enter", modifiers=2, code=13)
        found = browser.wait(f"{DONE} && document.querySelector('.text')?.innerText")
        self.assertEqual(found, "<b>Twelve</b> and 13 letters")
        self.assert_stays(server, browser)

    def test_names_are_no_markup(self):
        from common.deploy.predictor import Predictor
        from common.serve.server import Limits, _page

        predictor = Predictor.from_checkpoint(self.checkpoint, "cpu")
        predictor.about.config["name"] = "</script><b>&"
        text = _page("page.html", predictor, Limits())
        self.assertIn("<h1>&lt;/script&gt;&lt;b&gt;&amp;</h1>", text)
        facts = text.partition('id="facts">')[2].partition("</script>")[0]
        self.assertEqual(json.loads(facts)["name"], "</script><b>&")


class TestFiles(unittest.TestCase):
    """The pages come with the room."""

    def test_they_name_no_other_place(self):
        folder = find_spec("common.serve").submodule_search_locations[0]
        for name in ("page.html", "docs.html"):
            with open(f"{folder}/{name}", encoding="utf-8") as file:
                self.assertNotRegex(file.read(), r"https?://|url\(|@import|src=[\"']?[^\"' >]*//")
