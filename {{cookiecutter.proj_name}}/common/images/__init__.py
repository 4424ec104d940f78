"""Room: picture files in a folder for each class, read at the size that is needed; pages with pictures of samples."""
