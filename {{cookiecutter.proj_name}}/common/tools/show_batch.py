"""Moved to ``python -m common.vision.show_batch``; this name stays for one release."""

from common.config.rooms import open_room
from common.tools.project import one_line_errors

if __name__ == "__main__":
    with one_line_errors():
        open_room("vision.show_batch", "common.tools.show_batch").main()
