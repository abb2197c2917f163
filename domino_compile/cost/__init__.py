"""What computing and communicating take, in seconds and bytes."""
