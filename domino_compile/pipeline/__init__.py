"""The passes of one compile, in order, and what they may know. Neither lowering is known here."""
