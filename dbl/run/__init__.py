"""What a run is: the contract, its folder, checkpoints, and the model assembled from them."""
