"""What a run does, piece by piece: its folder, weights, images and readings; each resumable."""
