"""What a run leaves and goes on from: its folder, its checkpoints, the weights in them."""
