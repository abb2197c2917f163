"""What a real run spends its steps on: computing, communicating, standing still."""
