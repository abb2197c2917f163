"""The same script with and without domino: speed, memory and the quality of training."""
