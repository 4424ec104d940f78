"""What a run leaves behind and resumes from: its folder, its checkpoints, and the weights in them."""
