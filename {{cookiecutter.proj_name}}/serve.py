"""Serve: python serve.py --model_pt experiments/<name>/checkpoints/<file>.pt, then open http://127.0.0.1:8000."""

from common.deploy.cli import Parser, open_predictor, plain_ends, positive


def main() -> None:
    """Serve a checkpoint or an exported model over HTTP, with a page to try it on."""
    parser = Parser("Serve a checkpoint or an exported model over HTTP, with a page to try it on.")
    parser.add_argument("--host", default="127.0.0.1", help="address; 0.0.0.0: reachable from other machines")
    parser.add_argument("--port", type=int, default=8000, help="port (default: 8000; 0: a free one)")
    parser.add_argument("--batch_size", type=positive, default=32, metavar="N", help="inputs at once (default: 32)")
    parser.add_argument("--max_requests", type=positive, default=64, metavar="N", help="at the same time (default: 64)")
    parser.add_argument("--max_mb", type=float, default=10, metavar="MB", help="size of a request (default: 10)")
    parser.add_argument("--max_mp", type=float, default=16, metavar="MP", help="megapixels of a picture (default: 16)")
    parser.add_argument("--timeout", type=float, default=30, metavar="S", help="seconds for a request (default: 30)")
    words, rest = parser.parse()
    with plain_ends():
        # Imported late, so that --help and a mistake in a flag are answered before torch is loaded.
        from common.deploy.model_file import need

        for package in ("fastapi", "uvicorn", "multipart"):
            need(package, "serve.py")
        from common.serve.server import Limits, serve

        limits = Limits(words.batch_size, words.max_requests, words.max_mb, words.max_mp, words.timeout)
        serve(open_predictor(words, rest), words.host, words.port, limits)


if __name__ == "__main__":
    main()
