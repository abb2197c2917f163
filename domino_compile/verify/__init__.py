"""Proof that passes leave a program as it was (``check``) and that its order holds (``order``)."""
