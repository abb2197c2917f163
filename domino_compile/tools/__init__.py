"""The command `domino` and everything that it shows or measures."""
