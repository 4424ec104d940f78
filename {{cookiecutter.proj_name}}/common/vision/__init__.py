"""Room: images, their transforms, pictures of them, and networks for them."""
