"""Room: a model over HTTP, with a page to try it on. It is given a predictor, of the room deploy."""
