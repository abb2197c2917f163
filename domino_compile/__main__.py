"""``python -m domino_compile`` is the command ``domino``; torchrun starts ranks that way."""

from domino_compile.tools.cli import main

if __name__ == "__main__":
    main()
