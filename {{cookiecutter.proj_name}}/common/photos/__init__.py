"""Room: pictures in files, read at the size that is needed, with a folder for each class."""
