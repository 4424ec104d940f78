"""Room: language models: text as tokens in one memory-mapped file, a transformer's blocks, and sampling."""
