"""Room: a model as a file for other programs or as a folder to publish. It is given a predictor, of the room deploy."""
